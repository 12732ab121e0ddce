"""What the README shows runs as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from llama_rt.cli.parser import build_parser

README = Path(__file__).parents[2] / "README.md"


def blocks(language: str) -> list[str]:
    text = README.read_text(encoding="utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [body for name, body in found if name == language]


def test_the_python_snippet_runs(tiny_hf_folder: Path) -> None:
    (snippet,) = blocks("python")
    assert len(snippet.splitlines()) <= 12
    code = snippet.replace('"path/to/model"', repr(str(tiny_hf_folder)))
    assert str(tiny_hf_folder) in code
    code = code.replace("max_tokens=64", "max_tokens=8").replace('stop=["\\n"]', "max_tokens=8")
    command = [sys.executable, "-c", code + "\n    assert len(answers) == 2 and len(scores) > 3\n"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_the_commands_exist() -> None:
    text = "\n".join(blocks("sh") + blocks(""))
    named = set(re.findall(r"^(?:\$ )?llama-rt (\w+)", text, re.MULTILINE))
    listed = build_parser().format_help()
    assert {"run", "chat", "info", "convert", "bench", "perplexity", "doctor"} <= named
    assert all(re.search(rf"^    {name}\b", listed, re.MULTILINE) for name in named)


@pytest.mark.parametrize(
    "document",
    ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "docs/architecture.md"],
)
def test_links_and_named_files_exist(document: str) -> None:
    path = README.parent / document
    text = path.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []
    files = re.findall(r"`((?:csrc|python|tests|cmake|docs)/[\w/.*-]+)`", text)
    missing = [
        name
        for name in files
        if not (list(README.parent.glob(name)) if "*" in name else (README.parent / name).exists())
    ]
    assert missing == []
