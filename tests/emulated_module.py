"""Builds the whole package on the emulated device: a folder to put first on the Python path.

Only the scalar ISA level is in it, and no CUDA toolkit is needed. `python tests/emulated_module.py`
builds it and prints the folder.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import emulated_device
from emulated_device import DEVICE, HOST_FOLDERS, MACHINE, PYTHON, ROOT, compiled
from emulated_levels import LEVELS, level_definitions

SOURCES = ROOT / "csrc"
KERNELS = SOURCES / "cpu" / "kernels"
# As a build for these would be: both sets of kernels.
ARCHITECTURES = ("-DLLAMA_RT_CUDA_SM90A", '-DLLAMA_RT_CUDA_ARCHITECTURES="80-real 90a-real"')
NO_LEVELS = [f"-DLLAMA_RT_HAS_{level}=0" for level in LEVELS]


def flags(source: Path) -> tuple[str, ...]:
    """What a source needs besides the flags of device code; glue is compiled fast, not well."""
    room = source.relative_to(SOURCES).parts[0] if source.is_relative_to(SOURCES) else ""
    if room == "bindings":
        return ("-O0", "-g0", "-fvisibility=hidden", *PYTHON)
    if room == "cuda" and source.suffix == ".cpp":
        return ARCHITECTURES
    if source.name == "isa.cpp":
        return tuple(NO_LEVELS)
    return level_definitions("scalar") if source.is_relative_to(KERNELS) else ()


def host_sources() -> list[Path]:
    """What a build for this machine compiles besides the CUDA backend."""
    folders = (*HOST_FOLDERS, "cpu/kernels/common")
    return [*MACHINE, *(p for f in folders for p in sorted((SOURCES / f).glob("*.cpp")))]


def _sources() -> list[Path]:
    cuda = [p for p in sorted((SOURCES / "cuda").glob("*.cpp")) if p.name != "absent.cpp"]
    return [*DEVICE, *host_sources(), *cuda, *sorted((SOURCES / "cuda" / "kernels").glob("*.cu"))]


@cache
def package() -> Path:
    """The folder that holds `llama_rt` with the emulated device."""
    sources = _sources()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda source: compiled(source, *flags(source)), sources))
    return emulated_device.package("package", objects)


if __name__ == "__main__":
    sys.stdout.write(f"{package()}\n")
