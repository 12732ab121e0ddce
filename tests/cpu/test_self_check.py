"""A level that computes other values than scalar, or meets an illegal instruction, is not used.

No processor at hand does either, so the check is compiled with kernel tables of known faults.
"""

import subprocess

import pytest

from emulated_device import COMPILER, FOLDER, ROOT, compiled
from emulated_levels import level_definitions
from llama_rt import _native

COMMON = ROOT / "csrc" / "cpu" / "kernels" / "common"
SOURCES = [
    *("csrc/core/dtype.cpp", "csrc/cpu/kernel_table.cpp", "csrc/cpu/self_check.cpp"),
    *("csrc/platform/illegal_instruction.cpp", "tests/cpu/self_check.cpp"),
]
SCALAR = ("elementwise", "dequantized_matmul", "encode")


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    scalar = level_definitions("scalar")
    objects = [compiled(ROOT / source) for source in SOURCES]
    objects += [compiled(COMMON / f"{name}.cpp", *scalar) for name in SCALAR]
    program = FOLDER / "self_check"
    subprocess.run([COMPILER, "-pthread", "-o", program, *objects], check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    return dict(line.split(": ", 1) for line in done.stdout.splitlines())


def test_right_kernels_pass(said):
    assert said["right"] == ""


CASES = [("norm", "rms_norm"), ("product", "q8_0"), ("nan", "q8_0")]


@pytest.mark.parametrize(("case", "op"), CASES)
def test_other_values_are_named(said, case, op):
    assert op in said[case]
    assert "differs from scalar's" in said[case]


def test_an_illegal_instruction_is_survived(said):
    assert "refuses one of its instructions" in said["refused"]


def test_the_host_keeps_its_signal_handler(said):
    assert said["host's signals"] == "1"


def test_every_level_of_this_machine_passes():
    assert _native.cpu_info().unused_tiers.get("avx2", "") in {"", "not in this build"}
    for reason in _native.cpu_info().unused_tiers.values():
        assert reason == "not in this build"
