"""The whole package with emulated tiles: tests of ops and golden cases, on its amx tier."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from emulated_tiles import missing, package

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.mark.parametrize("path", ["tests/ops", "tests/golden/test_shared.py"])
def test_tests_pass_with_tiles(path):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "amx", path],
        env=os.environ | {"PYTHONPATH": f"{package()}{os.pathsep}{ROOT / 'tests'}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    counted = done.stdout.splitlines()[-1]
    assert " passed" in counted or "no shared golden cases" in done.stdout, counted
