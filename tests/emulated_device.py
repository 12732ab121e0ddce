"""Builds device code as plain C++: libraries for ctypes on the emulated device, whole packages.

Objects are kept in `build/emulated` and made again when a source or a header they read is newer.
"""

import ctypes
import fcntl
import os
import subprocess
import sysconfig
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pybind11

ROOT = Path(__file__).resolve().parents[1]
EMULATION = ROOT / "tests" / "cuda" / "emulation"
FOLDER = ROOT / "build" / "emulated"
COMPILER = os.environ.get("CXX", "g++")
# `-x c++`: the compiler does not know the ending .cu.
FLAGS = [
    *(
        "-std=c++20",
        "-O2",
        "-g1",
        "-fPIC",
        "-ffp-contract=off",
        "-fno-strict-aliasing",
        "-mf16c",
        "-mfma",
    ),
    *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-psabi"),
    *("-I", str(EMULATION), "-I", str(ROOT / "csrc"), "-x", "c++"),
]
PACKAGE = ROOT / "python" / "llama_rt"
PYTHON = ("-isystem", sysconfig.get_path("include"), "-isystem", pybind11.get_include())
# An editable installation would come before the path.
CUSTOMIZE = """import sys
sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != "ScikitBuildRedirectingFinder"]
"""
# Folders of csrc/ whose sources every build compiles.
HOST_FOLDERS = (
    *("core", "platform", "backend", "cpu", "model", "model/adapters", "sampling", "runner"),
    *("tokenizer", "bindings"),
)
# What a build for this machine chooses.
MACHINE = [ROOT / "csrc" / "platform" / p for p in ("system/linux.cpp", "processor/x86.cpp")]
DEVICE = [EMULATION / name for name in ("execution.cpp", "asynchronous.cpp", "runtime.cpp")]


def _is_current(made: Path, depfile: Path) -> bool:
    if not made.is_file() or not depfile.is_file():
        return False
    read = depfile.read_text().replace("\\\n", " ").split(":", 1)[1].split()
    age = made.stat().st_mtime
    return all(Path(p).is_file() and Path(p).stat().st_mtime <= age for p in read)


@contextmanager
def _locked(name: str) -> Iterator[None]:
    """One process at a time makes what has this name: tests may run in several."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def compiled(source: Path, *flags: str) -> Path:
    """The object file of one source; `flags` are those it needs besides FLAGS."""
    name = source.relative_to(ROOT).as_posix().replace("/", "-")
    made = FOLDER / f"{name}.{zlib.crc32(' '.join((*FLAGS, *flags)).encode()):08x}.o"
    depfile = made.with_suffix(".d")
    with _locked(made.name):
        if _is_current(made, depfile):
            return made
        new = made.with_suffix(f".{os.getpid()}.o")
        command = [COMPILER, *FLAGS, *flags, "-MMD", "-MF", str(depfile)]
        subprocess.run([*command, "-c", str(source), "-o", str(new)], check=True)
        new.replace(made)
    return made


@cache
def library(name: str, *sources: str) -> ctypes.CDLL:
    """Loads `sources` (relative to the repository) with the emulated device as one library."""
    objects = [compiled(path) for path in (*DEVICE, *(ROOT / s for s in sources))]
    return ctypes.CDLL(str(linked(name, objects)))


def linked(name: str, objects: list[Path]) -> Path:
    """The shared library of these objects, for ctypes; others of the same name are left alone."""
    built_from = zlib.crc32(" ".join(map(str, objects)).encode())
    made = FOLDER / f"lib{name}.{built_from:08x}.so"
    with _locked(made.name):
        return _link(made, objects)


def package(name: str, objects: list[Path]) -> Path:
    """A folder to put first on the Python path: `llama_rt` with these objects as native module."""
    with _locked(name):
        return _package(FOLDER / name / "llama_rt", objects)


def _package(folder: Path, objects: list[Path]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for entry in folder.iterdir():
        if entry.is_symlink():
            entry.unlink()
    for entry in PACKAGE.iterdir():
        if not entry.name.startswith(("_native.cpython", "__pycache__", ".")):
            (folder / entry.name).symlink_to(entry)
    (folder.parent / "sitecustomize.py").write_text(CUSTOMIZE)
    _link(folder / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}", objects)
    return folder.parent


def _link(made: Path, objects: list[Path]) -> Path:
    if not made.is_file() or any(o.stat().st_mtime > made.stat().st_mtime for o in objects):
        new = made.with_suffix(f".{os.getpid()}")
        command = [COMPILER, "-shared", "-pthread", "-Wl,-Bsymbolic", "-o", str(new)]
        subprocess.run([*command, *map(str, objects)], check=True)
        new.replace(made)
    return made
