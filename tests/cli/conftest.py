"""The command as a person runs it (a process), and as a program calls it (much quicker)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from llama_rt.cli import main

COMMAND = [sys.executable, "-m", "llama_rt"]
# A template that every tokenizer can render: messages joined by line breaks.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@dataclass(frozen=True)
class Outcome:
    """Output and exit code of a run of the command."""

    code: int
    out: str
    err: str

    @property
    def object(self) -> dict:
        """The one JSON object on standard output."""
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)


@pytest.fixture(scope="session")
def process() -> Callable[..., Outcome]:
    """Runs the command as a process of its own."""

    def run(*words: str | Path, stdin: str = "") -> Outcome:
        command = [*COMMAND, *map(str, words)]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120)
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def start():
    """Starts the command with pipes on all sides; ends it if the test does not."""
    running: list[subprocess.Popen[bytes]] = []

    def run(*words: str | Path) -> subprocess.Popen[bytes]:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        running.append(subprocess.Popen([*COMMAND, *map(str, words)], **pipes))
        return running[-1]

    yield run
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Calls the command inside this process."""
    import io

    def run(*words: str | Path, stdin: str = "") -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return run


@pytest.fixture(scope="session")
def long_folder(tmp_path_factory: pytest.TempPathFactory, tiny_hf_folder: Path) -> Path:
    """The tiny model with a context that takes a while to fill."""
    folder = tmp_path_factory.mktemp("long") / "tiny-long"
    shutil.copytree(tiny_hf_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 1 << 17
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def template_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "plain.jinja"
    path.write_text(PLAIN_TEMPLATE)
    return path
