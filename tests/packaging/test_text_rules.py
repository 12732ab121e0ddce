"""What no file of the project may contain, and how long it may grow."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[2]
LONGEST = 600
ENDINGS = {".h", ".cpp", ".inl", ".cu", ".cuh", ".py", ".pyi", ".cmake", ".md", ".toml", ".txt"}


def project_files() -> list[Path]:
    folders = ["csrc", "python", "tests", "cmake", "docs", "examples", "tools", "benchmarks"]
    nested = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    return sorted(
        path
        for path in [*nested, *ROOT.iterdir()]
        if path.is_file() and (path.suffix in ENDINGS or path.name == "CMakeLists.txt")
    )


def source_files() -> list[Path]:
    """What is compiled or imported: not the tests, not the documents."""
    folders = {ROOT / "csrc", ROOT / "python"}
    return [
        path
        for path in project_files()
        if folders & set(path.parents) and path.suffix not in {".md", ".txt"}
    ]


def lines_with(paths: list[Path], pattern: str) -> list[str]:
    """`file:line: text` of every line that matches, this file apart."""
    found = re.compile(pattern)
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in paths
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if found.search(line)
    ]


def test_files_are_found() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in project_files()}
    assert {"pyproject.toml", "README.md", "python/llama_rt/errors.py"} <= names


def test_no_file_is_too_long() -> None:
    code = [path for path in project_files() if path.suffix not in {".md", ".txt"}]
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in code
    }
    assert {name: n for name, n in lengths.items() if n > LONGEST} == {}


def lines_of(folder: Path, endings: set[str]) -> dict[Path, int]:
    paths = [path for path in folder.rglob("*") if path.suffix in endings]
    return {path: len(path.read_text(encoding="utf-8").splitlines()) for path in paths}


def test_files_are_neither_crumbs_nor_catch_alls() -> None:
    native = lines_of(ROOT / "csrc", {".h", ".cpp", ".inl", ".cu", ".cuh"})
    assert sum(n < 40 for n in native.values()) < 0.1 * len(native)
    python = lines_of(ROOT / "python" / "llama_rt", {".py"})
    for lengths in (native, python):
        assert 100 <= median(lengths.values()) <= 250


def test_no_package_outweighs_the_others() -> None:
    lengths = lines_of(ROOT / "python" / "llama_rt", {".py"})
    total = sum(lengths.values())
    for package in {path.parent for path in lengths} - {ROOT / "python" / "llama_rt"}:
        own = sum(n for path, n in lengths.items() if package in path.parents)
        assert own <= 0.15 * total, package


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("a path of one machine", r"(?<![\w.])/(work|root|home|farm)/\w|/opt/(wheels|pypi)"),
        ("a mark of a merge", r"^(<{7}|>{7}|={7})( |$)"),
        ("trailing white space or a tab", r"[ \t]+$|^\t"),
    ],
)
def test_no_file_holds(what: str, pattern: str) -> None:
    found = lines_with(project_files(), pattern)
    assert not found, f"{what}:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("unfinished work", r"\b(TODO|FIXME|XXX|HACK)\b|NotImplementedError|not implemented"),
        ("a debugger", r"\b(breakpoint|set_trace)\("),
    ],
)
def test_no_source_holds(what: str, pattern: str) -> None:
    found = lines_with(source_files(), pattern)
    assert not found, f"{what}:\n" + "\n".join(found)


def test_native_code_never_ends_the_process_nor_prints() -> None:
    """A library inside somebody's program reports by exceptions."""
    native = [path for path in source_files() if path.suffix in {".h", ".cpp", ".inl", ".cu"}]
    ends = r"(?<![\w.>])(std::)?(abort|exit|_exit|quick_exit|terminate|assert)\s*\("
    prints = r"\bstd::(cout|cerr|clog)\b|(?<!\w)f?printf\s*\("
    found = lines_with(native, rf"{ends}|{prints}")
    assert not found, "\n".join(found)


def test_only_two_environment_variables_change_what_is_computed() -> None:
    native = "\n".join(path.read_text(encoding="utf-8") for path in source_files())
    read = set(re.findall(r"getenv\(\"(\w+)\"", native))
    assert read <= {"LLAMA_RT_ISA", "LLAMA_RT_THREADS"}
    asked = set(re.findall(r"environ(?:\.get\(|\[)\"(\w+)\"", native))
    assert asked <= {"NO_COLOR", "TERM"}
