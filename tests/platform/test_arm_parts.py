"""ARM processors are named by their main ID register, as they report it (see each source)."""

import subprocess

import pytest

from emulated_device import COMPILER, FOLDER, ROOT, compiled

# Registers as real machines print them: Raspberry Pi 4 and 5, AWS Graviton 2 to 4, Ampere Altra and
# AmpereOne, Apple M1 and M2 under Linux, and qemu's emulated Cortex-A53.
MACHINES = {
    "410fd083": "Cortex-A72",
    "414fd0b1": "Cortex-A76",
    "413fd0c1": "Neoverse-N1",
    "411fd401": "Neoverse-V1",
    "410fd4f1": "Neoverse-V2",
    "c00fac30": "Ampere-1",
    "611f0221": "Icestorm-M1",
    "611f0231": "Firestorm-M1",
    "611f0330": "Avalanche-M2",
    "410fd034": "Cortex-A53",
}


@pytest.fixture(scope="module")
def names() -> dict[str, str]:
    sources = ("csrc/platform/processor/arm_parts.cpp", "tests/platform/arm_parts.cpp")
    program = FOLDER / "arm_parts"
    objects = [compiled(ROOT / source) for source in sources]
    subprocess.run([COMPILER, "-o", program, *objects], check=True)
    registers = [*MACHINES, "5aff1230"]
    done = subprocess.run([program, *registers], capture_output=True, text=True, check=True)
    return dict(zip(registers, done.stdout.splitlines(), strict=True))


@pytest.mark.parametrize("register", MACHINES)
def test_known_processors(names, register):
    assert names[register] == MACHINES[register]


def test_an_unknown_one_is_told_by_its_numbers(names):
    assert names["5aff1230"] == "ARM (implementer 0x5a, part 0x123)"
