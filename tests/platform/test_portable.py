"""The package without what Linux and x86-64 add: its threads, its memory, and golden cases."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from emulated_portable import package

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
# What a compiler says of the system or the processor that it compiles for.
TARGET = re.compile(r"#.*\b(__linux__|__APPLE__|__unix__|_WIN32|__x86_64__|__aarch64__|__arm\w*)\b")
CHOSEN = {"system", "processor"}


@pytest.mark.parametrize(
    "paths",
    [["tests/platform"], ["tests/golden/test_golden.py", "-k", "test_logits and gguf-q4_0"]],
    ids=["platform", "golden"],
)
def test_tests_pass_without_linux(paths: list[str]) -> None:
    options = ["-q", "-p", "no:cacheprovider", "-m", "not linux"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *paths, f"--ignore={__file__}"],
        env=os.environ | {"PYTHONPATH": f"{package()}{os.pathsep}{ROOT / 'tests'}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout.splitlines()[-1]


def test_it_is_the_portable_one() -> None:
    script = "from llama_rt import _native; print(*_native.cpu_info().tiers)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(package())},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["scalar"]


def test_nothing_else_asks_what_it_is_compiled_for() -> None:
    """Kernels of a level may: they are compiled for it alone."""
    found = [
        f"{path.relative_to(ROOT)}: {line}"
        for path in sorted(CSRC.rglob("*"))
        if path.suffix in {".h", ".cpp", ".inl"} and path.parent.name not in CHOSEN
        for line in path.read_text(encoding="utf-8").splitlines()
        if TARGET.match(line)
    ]
    assert not found, "\n".join(found)
