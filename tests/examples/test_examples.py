"""Every program in `examples/` runs as its first lines say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
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
OWN_TESTS = {"token_probabilities.py", "web_server.py"}


def test_every_example_is_run() -> None:
    assert {path.name for path in FOLDER.glob("*.py")} == set(SAYS) | OWN_TESTS


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


def test_token_probabilities_are_those_of_score_and_the_picture_is_written(tmp_path: Path) -> None:
    program = FOLDER / "token_probabilities.py"
    cells = program.read_text(encoding="utf-8").split("\n# %% ")
    assert len(cells) == 5
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^ *(\S+) +([\d.]+)% +likeliest", done.stdout, re.MULTILINE)
    namespace: dict[str, Any] = {}
    exec(cells[1].partition("\n")[2], namespace)  # the model and the sentence
    with namespace["llm"] as llm:
        expected = 100 * np.exp(llm.score(namespace["text"]))
    assert "".join(piece for piece, _ in rows) == namespace["text"].replace(" ", "")
    np.testing.assert_allclose([float(p) for _, p in rows], expected, atol=0.06)
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        assert "no picture" in done.stdout
    else:
        picture = (tmp_path / "token_probabilities.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert len(picture) > 5000
