"""The checks of a release pass what is good and stop what is not."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import build_wheels
import pytest
import wheel_checks
from wheel_checks import Result


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def wheel_linked_with(tmp_path: Path, *libraries: str) -> Path:
    """A wheel whose module needs the C library and these."""
    for name in ("gcc", "readelf"):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not on this machine")
    code, module = tmp_path / "code.c", tmp_path / "_native.so"
    code.write_text("#include <stdlib.h>\nvoid *f(void) { return malloc(1); }\n")
    command = ["gcc", "-shared", "-fPIC", code, "-Wl,--no-as-needed", *libraries, "-o", module]
    subprocess.run(command, check=True)
    wheel = tmp_path / "llama_rt-1-cp312-cp312-linux.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(module, "llama_rt/_native.cpython-312.so")
    return wheel


def sdist_of(tmp_path: Path, *names: str) -> Path:
    sdist = tmp_path / "llama_rt-1.tar.gz"
    with tarfile.open(sdist, "w:gz") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(f"llama_rt-1/{name}"))
    return sdist


@pytest.mark.parametrize(
    ("tag", "glibc"),
    [("manylinux_2_28_x86_64", (2, 28)), ("manylinux_2_5_i686", (2, 5)), ("linux_x86_64", None)],
)
def test_glibc_of_a_tag(tag: str, glibc: tuple[int, int] | None) -> None:
    assert wheel_checks.glibc_of(tag) == glibc


def test_a_module_that_needs_the_c_library_alone_passes(tmp_path: Path) -> None:
    result = Result("wheel")
    wheel_checks.needed(result, wheel_linked_with(tmp_path, "-lm"), gcc=False)
    assert result.passed
    assert result.checks["libraries"].startswith("GLIBC_2.")


def test_a_module_that_needs_another_library_is_stopped(tmp_path: Path) -> None:
    wheel = wheel_linked_with(tmp_path, "-l:libgcc_s.so.1")
    result = Result("wheel")
    wheel_checks.needed(result, wheel, gcc=False)
    assert "libgcc_s" in result.checks["libraries"]
    assert not result.passed
    wheel_checks.needed(result, wheel, gcc=True)  # with --cuda GCC's libraries are expected
    assert result.passed


def test_files_of_the_sources_may_be_in_an_sdist(tmp_path: Path) -> None:
    sdist = sdist_of(tmp_path, "PKG-INFO", "csrc/core/dtype.h", "tests/conftest.py")
    assert wheel_checks.foreign_content(sdist) is None


@pytest.mark.parametrize("name", [".ci/run", "build/x", "python/llama_rt/_native.so", "notes.md"])
def test_nothing_else_may_be_in_an_sdist(tmp_path: Path, name: str) -> None:
    found = wheel_checks.foreign_content(sdist_of(tmp_path, "PKG-INFO", name))
    assert found is not None
    assert name.split("/")[0] in found or name in found


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("echo there was a king", None),
        ("exit 0", "wrote nothing"),
        ("echo cannot load >&2; exit 3", "status 3: cannot load"),
    ],
)
def test_first_commands(tmp_path: Path, script: str, problem: str | None) -> None:
    found = wheel_checks.run_first_commands([program(tmp_path / "llama-rt", script)])
    assert (found is None) if problem is None else (found is not None and problem in found)


def test_an_interpreter_that_does_not_run_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shims of pyenv are on the PATH for versions that are not switched on."""
    shim = program(tmp_path / "shims" / "python3.x", "exit 127")
    good = program(tmp_path / "bin" / "python3.x", f'exec "{sys.executable}" "$@"')
    monkeypatch.setenv("PATH", f"{shim.parent}:{good.parent}")
    assert build_wheels.interpreter("python3.x") == Path(sys.executable)
    assert build_wheels.interpreter("python3.y") is None


def test_an_interpreter_that_was_asked_for_must_be_there() -> None:
    with pytest.raises(SystemExit, match=r"no CPython that runs: python9\.9$"):
        build_wheels.find_pythons([sys.executable, "python9.9"])
