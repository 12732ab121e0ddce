"""The table of ISA levels that `.ci/run` ends with."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from llama_rt import hardware

SCRIPT = Path(__file__).parents[2] / ".ci" / "levels.py"


@pytest.fixture(scope="module")
def levels() -> dict:
    if not SCRIPT.is_file():
        pytest.skip("the scripts of CI are not part of a source distribution")
    return runpy.run_path(str(SCRIPT))


def test_trials_come_by_level_and_the_rest_as_not_run(levels: dict) -> None:
    tried = "aarch64\tneon\temulated\tok\nx86-64\tavx2\tqemu max\tok\nx86-64\tavx2\thardware\tok\n"
    lines = levels["table"](tried).splitlines()
    assert lines[0].split() == ["architecture", "level", "how", "result"]
    words = [line.split() for line in lines[1:]]
    assert [line[2] for line in words if line[:2] == ["x86-64", "avx2"]] == ["qemu", "hardware"]
    assert ["aarch64", "neon", "emulated", "ok"] in words
    assert sum(line[2:4] == ["not", "run"] for line in words) == 5 + 3


def test_a_level_that_nobody_knows_is_shown(levels: dict) -> None:
    assert levels["rows"]("riscv\tv\thardware\tok\n")[-1] == ("riscv", "v", "hardware", "ok")


def test_a_line_that_is_not_a_trial_is_refused(levels: dict) -> None:
    with pytest.raises(ValueError, match="four fields"):
        levels["rows"]("x86-64 avx2 hardware ok\n")


def test_every_level_of_the_module_has_its_row(levels: dict) -> None:
    assert set(hardware.isa_names()) in [set(names) for names in levels["LEVELS"].values()]
