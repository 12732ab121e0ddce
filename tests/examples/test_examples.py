"""Every program in `examples/` runs as its first lines say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"
MORE_ARGUMENTS = {"chat.py": ["vicuna"]}
# What shows that the program did its work.
SAYS = {
    "asyncio_tasks.py": ("The fox", "The hare", "times meanwhile"),
    "batch.py": ("The king said|", "One morning|"),
    "chat.py": ("> Who are you?", "from the cache"),
    "logprobs.py": ("perplexity", "%"),
    "streaming.py": ("Once upon a time", "tokens/s"),
}


def test_every_example_is_run() -> None:
    assert {path.name for path in FOLDER.glob("*.py")} == set(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_runs(name: str, tiny_hf_folder: Path) -> None:
    program = FOLDER / name
    assert f"python examples/{name}" in program.read_text(encoding="utf-8")
    command = [sys.executable, str(program), str(tiny_hf_folder), *MORE_ARGUMENTS.get(name, [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for words in SAYS[name]:
        assert words in done.stdout
