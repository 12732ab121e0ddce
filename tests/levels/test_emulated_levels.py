"""Levels that this processor lacks, in plain C++: tests of ops and golden cases of each."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from emulated_levels import NEEDS, emulated, missing, package

ROOT = Path(__file__).resolve().parents[2]
PATHS = ("tests/ops", "tests/golden/test_shared.py", "tests/golden/test_greedy.py")
# Levels that have a few kernels of their own and inherit the rest: the tests of those.
OWN = {
    "avx2_vnni": ("tests/ops/test_matmul.py",),
    "avx512_bf16": ("tests/ops/test_matmul.py", "tests/ops/test_attention.py"),
}


# Of the types that every level only decodes, by the same source, one is enough here.
FAST = " and ".join(
    f"not {name}"
    for name in ("iq1", "iq2_s", "iq2_xxs", "iq3", "tq1", "tq2", "mxfp4", "q8_1", "q8_k")
)


@pytest.mark.parametrize("level", NEEDS)
def test_tests_pass_on_an_emulated_level(level, record_level):
    if level not in emulated():
        pytest.skip(f"the processor has {level}")
    if missing():
        record_level("x86-64", level, "not run", missing())
        pytest.skip(missing())
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("-k", f"({level}] or {level}-) and {FAST}", *OWN.get(level, PATHS)),
        ],
        env=os.environ | {"PYTHONPATH": f"{package()}{os.pathsep}{ROOT / 'tests'}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    counted = done.stdout.splitlines()[-1]
    record_level("x86-64", level, "emulated", counted)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in counted
