"""Builds the whole package with every ISA level of x86-64 on a processor that has AVX2.

The levels that it lacks are compiled over intrinsics in plain C++: `levels/avx512.h`, which takes
them from the package simde-py, and `levels/tiles.h`. `python tests/emulated_levels.py` builds the
package and prints the folder to put first on the Python path.
"""

import os
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import emulated_device
from emulated_device import HOST_FOLDERS, MACHINE, PYTHON, ROOT, compiled

SOURCES = ROOT / "csrc"
KERNELS = SOURCES / "cpu" / "kernels"
HERE = ROOT / "tests" / "levels"
PLAIN = HERE / "avx512.h"
AVX2 = ("-mavx2", "-mfma", "-mf16c", "-mbmi2")
AVX512 = (*AVX2, *(f"-mavx512{name}" for name in ("f", "bw", "dq", "vl", "vnni")))
# GCC 12's own AVX-512 headers trip these.
QUIET = ("-Wno-uninitialized", "-Wno-maybe-uninitialized")
# What of the processor (as /proc/cpuinfo spells it) a level needs beside its parent's.
NEEDS = {
    "avx2": {"avx2", "fma", "f16c", "bmi2"},
    "avx2_vnni": {"avx_vnni"},
    "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"},
    "avx512_bf16": {"avx512_bf16"},
    "amx": {"amx_tile", "amx_bf16", "amx_int8"},
}


@cache
def _processor() -> frozenset[str]:
    flags = Path("/proc/cpuinfo")
    return frozenset(flags.read_text(encoding="utf-8").split() if flags.exists() else ())


# Of each level the folder of its simd.h, and its sources in csrc/cpu/kernels, as in
# cmake/isa_levels.cmake.
LEVELS = {
    "scalar": ("scalar", ("common/*.cpp",)),
    "avx2": ("x86/avx2", ("common/*.cpp", "gemm/*.cpp")),
    "avx2_vnni": ("x86/avx2", ("gemm/quantized_matmul.cpp",)),
    "avx512": ("x86/avx512", ("common/*.cpp", "gemm/*_matmul.cpp")),
    "avx512_bf16": ("x86/avx512", ("x86/avx512_bf16/*.cpp",)),
    "amx": ("x86/avx512", ("x86/amx/*.cpp",)),
}


def _has(*needed: str) -> bool:
    return _processor().issuperset(needed)


HAS_AVX512 = _has(*NEEDS["avx512"], "avx512_bf16", "avx512vbmi")  # what the sources of amx use
HAS_VNNI = _has("avx_vnni")


def emulated() -> list[str]:
    """The levels that this processor lacks; amx always, as the package has tiles in plain C++."""
    return [name for name, needs in NEEDS.items() if name == "amx" or not _has(*needs)]


def missing() -> str:
    """Why the package cannot be built or run here; empty where it can."""
    if not _has(*NEEDS["avx2"]):
        return "the processor has no AVX2"
    if not (HAS_AVX512 and HAS_VNNI) and find_spec("simde_py") is None:
        return "the package simde-py is not installed, and the processor has not every level"
    return ""


def _simde() -> tuple[str, ...]:
    folder = Path(find_spec("simde_py").origin).parent / "simde"
    # Inlined, its functions take five minutes to compile, and GCC 12 fails over some.
    calls = ("-DSIMDE_NO_INLINE", "-Wno-unused-function", "-O1")
    return (*AVX2, *calls, "-isystem", str(folder), "-include", str(PLAIN))


@cache
def level_flags() -> dict[str, tuple[str, ...]]:
    """How the sources of each level are compiled."""
    bf16 = (*AVX512, "-mavx512bf16") if HAS_AVX512 else _simde()
    vbmi = ("-mavx512vbmi",) if HAS_AVX512 else ()
    return {
        "scalar": (),
        "avx2": AVX2,
        "avx2_vnni": (*AVX2, "-mavxvnni") if HAS_VNNI else _simde(),
        "avx512": AVX512 if HAS_AVX512 else _simde(),
        "avx512_bf16": bf16,
        "amx": (*bf16, *vbmi, "-include", str(HERE / "tiles.h"), "-fno-math-errno"),
    }


def compile_level(level: str, source: Path) -> tuple[Path, tuple[str, ...]]:
    """A source and the flags that it needs as part of a level, for `compiled`."""
    flags = level_flags()[level]
    quiet = QUIET if flags else ()  # scalar's objects are those of emulated_module.py
    return source, (*level_definitions(level), *flags, *quiet)


def level_definitions(level: str) -> tuple[str, str]:
    """The namespace of a level and its SIMD wrapper."""
    simd = f"cpu/kernels/{LEVELS[level][0]}/simd.h"
    return f"-DLLAMA_RT_LEVEL={level}", f'-DLLAMA_RT_SIMD="{simd}"'


def _objects(source: Path) -> list[tuple[Path, tuple[str, ...]]]:
    """A source of no level and its flags."""
    if source.parent.name == "bindings":
        return [(source, ("-O0", "-g0", "-fvisibility=hidden", *PYTHON))]
    if source.name == "isa.cpp":
        return [(source, tuple(f"-DLLAMA_RT_HAS_{level}=1" for level in LEVELS))]
    return [(source, ())]


def _level_objects() -> list[tuple[Path, tuple[str, ...]]]:
    """The sources of every level, with their flags."""
    return [
        compile_level(level, source)
        for level, (_, patterns) in LEVELS.items()
        for pattern in patterns
        for source in sorted(KERNELS.glob(pattern))
    ]


def compile_all(wanted: Iterable[tuple[Path, tuple[str, ...]]]) -> list[Path]:
    """The object files of sources with their flags."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda one: compiled(one[0], *one[1]), wanted))


@cache
def package() -> Path:
    """The folder that holds `llama_rt` with every level."""
    sources = [p for folder in HOST_FOLDERS for p in sorted(SOURCES.glob(f"{folder}/*.cpp"))]
    sources = [p for p in sources if p.name != "processor.cpp"]
    sources += [HERE / "machine.cpp", SOURCES / "cuda" / "absent.cpp", *MACHINE]
    wanted = [*(one for source in sources for one in _objects(source)), *_level_objects()]
    return emulated_device.package("levels", compile_all(wanted))


if __name__ == "__main__":
    sys.stdout.write(f"{package()}\n")
