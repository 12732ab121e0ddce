"""Builds the whole package with an amx tier whose tile instructions are done by `amx/tiles.h`.

The processor must have the rest of what that tier uses. `python tests/emulated_tiles.py` builds it
and prints the folder to put first on the Python path.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import emulated_device
from emulated_device import MACHINE, PYTHON, ROOT, compiled

SOURCES = ROOT / "csrc"
TIERS = SOURCES / "cpu" / "tiers"
HERE = ROOT / "tests" / "amx"
AVX2 = ("-mavx2", "-mfma", "-mf16c", "-mbmi2")
AVX512 = (*AVX2, *(f"-mavx512{name}" for name in ("f", "bw", "dq", "vl", "vnni")))
AMX = ("-mavx512bf16", "-mavx512vbmi", "-include", str(HERE / "tiles.h"))
FLAGS = {
    "scalar": (),
    "avx2": AVX2,
    "avx2_vnni": (*AVX2, "-mavxvnni"),
    "avx512": AVX512,
    "avx512_bf16": (*AVX512, "-mavx512bf16"),
    "amx": (*AVX512, *AMX, "-O3", "-fno-math-errno"),
}
# GCC 12's own AVX-512 headers trip these.
QUIET = ("-Wno-uninitialized", "-Wno-maybe-uninitialized")


def missing() -> str:
    """Why it cannot run here; empty where it can."""
    flags = Path("/proc/cpuinfo")
    words = flags.read_text(encoding="utf-8").split() if flags.exists() else []
    needed = {"avx512vbmi", "avx512_bf16", "avx512_vnni"} - set(words)
    return f"the processor has no {', '.join(sorted(needed))}" if needed else ""


def _objects(source: Path) -> list[tuple[Path, tuple[str, ...]]]:
    """A source and its flags, once for each tier that compiles it."""
    if source.parent.name == "bindings":
        return [(source, ("-O0", "-g0", "-fvisibility=hidden", *PYTHON))]
    if source.parent.parent != TIERS:
        return [(source, tuple(f"-DLLAMA_RT_ISA_{level}" for level in FLAGS))]
    own = source.parent.name
    tiers = [t for t in FLAGS if (TIERS / t / "vec.h").exists()] if own == "generic" else [own]
    include = ("-I", str(TIERS))
    return [
        (source, (f"-DLLAMA_RT_TIER={t}", "-I", str(TIERS / t), *include, *FLAGS[t], *QUIET))
        for t in tiers
    ]


@cache
def package() -> Path:
    """The folder that holds `llama_rt` with the emulated tier."""
    rooms = ("core", "platform", "backend", "cpu", "cpu/tiers/*", "model", "model/adapters")
    sources = [p for room in (*rooms, "bindings") for p in sorted(SOURCES.glob(f"{room}/*.cpp"))]
    sources = [p for p in sources if p.name != "cpu_info.cpp"]
    sources += [HERE / "machine.cpp", SOURCES / "cuda" / "absent.cpp", *MACHINE]
    wanted = [one for source in sources for one in _objects(source)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda one: compiled(one[0], *one[1]), wanted))
    return emulated_device.package("tiles", objects)


if __name__ == "__main__":
    sys.stdout.write(f"{package()}\n")
