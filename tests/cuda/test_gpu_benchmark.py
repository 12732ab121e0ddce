"""`benchmarks/gpu.py` walked over tiny models on the emulated device, cut off and resumed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from emulated_module import package

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def walk(results, *options):
    environment = os.environ | {"PYTHONPATH": str(package())}
    command = [sys.executable, "benchmarks/gpu.py", "--tiny", "--results", str(results), *options]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)


def test_steps_are_run_once_and_make_a_table(tmp_path):
    results = tmp_path / "results.json"
    first = walk(results, "--only", "7B q4_0", "--only", "7B bf16")
    assert first.returncode == 0, first.stdout + first.stderr
    rows = first.stdout.splitlines()
    for name in ("one", "prompt", "many", "many, 8-bit cache", "long"):
        assert any(row.startswith(f"7B bf16, {name} ") for row in rows), first.stdout
    found = json.loads(results.read_text())
    assert set(found) == {"7B bf16", "7B q4_0"}
    assert found["7B bf16"]["many"]["batch"] == 3
    again = walk(results, "--budget", "1")  # what is there stays
    assert "7B q8_0: left for the next run" in again.stdout
    assert "7B bf16: " not in again.stdout
    assert "7B bf16, one " in again.stdout
