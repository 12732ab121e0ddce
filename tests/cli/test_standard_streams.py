"""Standard streams as others hand them over: closed, or in an encoding that is not UTF-8."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SHORT = ("--max-tokens", "4", "--temperature", "0")
NOT_UTF8 = b"caf\xe9"
# Of these, Python lets the bytes of the first through as they came, and the second refuses them.
LOCALES = ({"LC_ALL": "C.UTF-8"}, {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "utf-8:strict"})

Bytes = subprocess.CompletedProcess[bytes]


@pytest.fixture(scope="module")
def shell() -> Callable[..., Bytes]:
    """Runs the command by a shell that redirects its streams, in an environment of its own."""

    def run(*words: str | bytes | Path, redirect: str = "", stdin: bytes = b"", **given: str):
        command = (sys.executable, "-m", "llama_rt")
        line = ["sh", "-c", f'exec "$@" {redirect}', "sh", *command, *words]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHONIO")}
        return subprocess.run(
            line, input=stdin, capture_output=True, timeout=120, env=environment | given
        )

    return run


def refused(done: Bytes, code: int) -> str:
    """The one line of the error, all that there is."""
    assert (done.returncode, done.stdout) == (code, b""), done.stderr
    assert done.stderr.startswith(b"llama-rt: error: ")
    assert done.stderr.count(b"\n") == 1
    return done.stderr.decode()


@pytest.mark.parametrize(("redirect", "left"), [(">&-", "stderr"), ("2>&-", "stdout")])
def test_what_goes_to_a_closed_stream_is_lost_and_no_more(
    shell, tiny_hf_folder, redirect: str, left: str
) -> None:
    words = ("run", "-m", tiny_hf_folder, *SHORT, "--seed", "1", "Once")
    whole, cut = shell(*words), shell(*words, redirect=redirect)
    assert (whole.returncode, cut.returncode) == (0, 0), cut.stderr
    if left == "stdout":
        assert (cut.stdout, cut.stderr) == (whole.stdout, b"")
    else:
        assert cut.stdout == b""
        assert cut.stderr.startswith(b"prompt ")
        assert cut.stderr.count(b"\n") == 1


def test_a_prompt_cannot_come_from_closed_input(shell, tiny_hf_folder) -> None:
    model = ("-m", tiny_hf_folder, *SHORT)
    assert "no prompt" in refused(shell("run", *model, redirect="<&-"), 2)
    assert shell("run", *model, "Once", redirect="<&-").returncode == 0


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("source", ["argument", "input", "file", "system", "message"])
def test_text_that_is_not_utf8_is_refused(
    shell, tiny_hf_folder, template_file, tmp_path, source: str, locale: dict[str, str]
) -> None:
    (tmp_path / "text").write_bytes(NOT_UTF8)
    command = "chat" if source in ("system", "message") else "run"
    words = {
        "argument": [NOT_UTF8],
        "file": ["--file", tmp_path / "text"],
        "system": ["--template", template_file, "--system", NOT_UTF8],
        "message": ["--template", template_file],
    }.get(source, [])
    stdin = NOT_UTF8 if source in ("input", "message") else b""
    done = shell(command, "-m", tiny_hf_folder, *SHORT, "--json", *words, stdin=stdin, **locale)
    assert "the text is not UTF-8: 'utf-8' codec can't decode byte 0xe9" in refused(done, 1)


@pytest.mark.parametrize("locale", LOCALES)
def test_the_name_of_a_file_need_not_be_utf8(
    shell, tiny_gguf_file, tmp_path, locale: dict[str, str]
) -> None:
    path = os.fsencode(tmp_path) + b"/" + NOT_UTF8 + b".gguf"
    shutil.copy(tiny_gguf_file, path)
    object_ = shell("info", path, "--json", **locale)
    assert json.loads(object_.stdout.decode("utf-8"))["path"] == os.fsdecode(path)
    report = shell("info", path, **locale)
    assert report.returncode == 0, report.stderr
    assert rb"caf\udce9.gguf" in report.stdout
    assert shell("run", "-m", path, *SHORT, "Once", **locale).returncode == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8:strict"])
def test_output_fits_its_encoding(shell, tiny_hf_folder, encoding: str) -> None:
    words = ("run", "-m", tiny_hf_folder, *SHORT, "--echo", "1 € für")
    done = shell(*words, "--json", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.decode("utf-8"))["prompt"] == "1 € für"
    done = shell(*words, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    name = encoding.partition(":")[0]
    assert done.stdout.startswith("1 € für".encode(name, "replace"))
