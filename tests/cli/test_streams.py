"""Standard streams as others hand them over: some of them closed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SHORT = ("--max-tokens", "4", "--temperature", "0")

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
