"""Who may use whom: the table of `docs/architecture.md`, section 2, against the source.

The rooms are folders of `csrc/` and modules of `python/llama_rt/`. An include or import that the
table does not allow fails here with the line that made it.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
PACKAGE = ROOT / "python" / "llama_rt"

CPP_ROOMS = {
    "core": set(),
    "platform": {"core"},
    "backend": {"core"},
    "cpu": {"backend", "platform", "core"},
    "cuda": {"backend", "core"},
    "model": {"backend", "core"},
    "sampling": {"backend", "core"},
    "runner": {"sampling", "model", "backend", "core"},
    "bindings": {"core", "platform", "backend", "cpu", "cuda", "model", "sampling", "runner"},
}
# Headers from outside the project, by prefix, and the only rooms that may include them.
OUTSIDE_HEADERS = {
    "pybind11/": {"bindings"},
    "Python.h": {"bindings"},
    "cuda": {"cuda"},
    "mma.h": {"cuda"},
    "immintrin.h": {"cpu", "platform"},
    "omp.h": set(),
    "cublas": set(),
    "cudnn": set(),
}

PYTHON_ROOMS = {
    "errors": set(),
    "files": {"errors"},
    "config": {"errors"},
    "loading": {"_native", "config", "errors", "files", "tokenizer"},
    "adapters": {"_native", "loading", "config", "errors", "files"},
    "tokenizer": {"errors", "files"},
    "chat": {"tokenizer", "errors"},
    "sampling": {"_native", "errors"},
    "generation": {"_native", "sampling", "tokenizer", "config", "errors"},
    "llama": {
        *("_native", "adapters", "chat", "config", "errors", "generation", "loading"),
        *("machine", "plan", "sampling", "tokenizer"),
    },
    "plan": {"_native", "config", "errors", "loading", "machine"},
    "identify": {"adapters", "chat", "errors", "files", "loading", "tokenizer"},
    "machine": {"_native", "errors"},
    "benchmark": {"_native", "config", "errors", "llama", "loading", "machine", "plan"},
    "evaluate": {"errors", "llama"},
    "cli": {
        *("__init__", "adapters", "benchmark", "chat", "errors", "evaluate", "identify"),
        *("loading", "machine", "plan", "tokenizer"),
    },
    "server": {"__init__", "errors"},
    "__main__": {"cli"},
}
# The package's front door re-exports; it may name any room but the ones that talk to people.
PYTHON_ROOMS["__init__"] = set(PYTHON_ROOMS) - {"cli", "server", "__main__"}

INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]', re.MULTILINE)


def cpp_files() -> list[Path]:
    endings = {".h", ".cpp", ".inl", ".cu", ".cuh"}
    return sorted(path for path in CSRC.rglob("*") if path.suffix in endings)


def python_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def included_file(source: Path, target: str) -> Path | None:
    """The file of a quoted include, whose path starts at csrc/ or beside the source."""
    for folder in (source.parent, CSRC):
        found = (folder / target).resolve()
        if found.is_file() and found.is_relative_to(CSRC):
            return found
    return None


def included_room(source: Path, target: str) -> str | None:
    """The package of a quoted include; None if it is not ours."""
    found = included_file(source, target)
    return found.relative_to(CSRC).parts[0] if found else None


def cpp_edges(source: Path) -> list[tuple[str, str, str]]:
    """(room used, kind, include text) for each include line of a file."""
    edges = []
    for bracket, target in INCLUDE.findall(source.read_text(encoding="utf-8")):
        room = included_room(source, target) if bracket == '"' else None
        edges.append((room or target, "room" if room else "outside", target))
    return edges


def python_room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def python_imports(text: str, package: tuple[str, ...]) -> list[tuple[int, str]]:
    """(line, dotted name inside `llama_rt`) of every import of the project's own modules.

    `package` is the dotted package of the file, which relative imports start from.
    """
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            names = [[*base, alias.name] for alias in node.names]
        else:
            continue
        found += [(node.lineno, ".".join(n[1:])) for n in names if n[0] == "llama_rt"]
    return found


def imports_of(source: Path) -> list[tuple[int, str]]:
    package = ("llama_rt", *source.relative_to(PACKAGE).parent.parts)
    return python_imports(source.read_text(encoding="utf-8"), package)


def used_room(dotted: str) -> str:
    """The room that a dotted name inside the package belongs to; a bare public name: `__init__`."""
    first = dotted.split(".")[0]
    is_module = (PACKAGE / f"{first}.py").is_file() or (PACKAGE / first / "__init__.py").is_file()
    return first if is_module or first == "_native" else "__init__"


def test_every_folder_of_csrc_is_a_room() -> None:
    rooms = {path.relative_to(CSRC).parts[0] for path in cpp_files()}
    assert rooms
    assert rooms <= set(CPP_ROOMS)


def test_every_module_is_a_room() -> None:
    rooms = {python_room(path) for path in python_files()}
    assert rooms
    assert rooms <= set(PYTHON_ROOMS)


def test_cpp_rooms_use_only_what_the_table_allows() -> None:
    wrong = []
    for source in cpp_files():
        room = source.relative_to(CSRC).parts[0]
        for used, kind, text in cpp_edges(source):
            if kind == "room" and used != room and used not in CPP_ROOMS[room]:
                wrong.append(f"{source.relative_to(ROOT)}: {room} -> {used} ({text})")
    assert not wrong, "\n".join(wrong)


def test_outside_headers_stay_in_their_rooms() -> None:
    wrong = []
    for source in cpp_files():
        room = source.relative_to(CSRC).parts[0]
        for used, kind, _ in cpp_edges(source):
            rooms = [r for prefix, r in OUTSIDE_HEADERS.items() if used.startswith(prefix)]
            if kind == "outside" and any(room not in allowed for allowed in rooms):
                wrong.append(f"{source.relative_to(ROOT)}: <{used}>")
    assert not wrong, "\n".join(wrong)


def test_quoted_includes_exist() -> None:
    missing = [
        f"{source.relative_to(ROOT)}: {target}"
        for source in cpp_files()
        for bracket, target in INCLUDE.findall(source.read_text(encoding="utf-8"))
        if bracket == '"' and included_room(source, target) is None
    ]
    assert not missing, "\n".join(missing)


def unit(path: Path) -> str:
    """A header and its source are one unit."""
    return path.relative_to(CSRC).with_suffix("").as_posix()


def circles(uses: dict[str, set[str]]) -> list[str]:
    """The names that are in a circle, or between two."""
    left = {name: set(used) - {name} for name, used in uses.items()}
    while True:
        free = {name for name, used in left.items() if not used & set(left)}
        if not free:
            return sorted(left)
        left = {name: used for name, used in left.items() if name not in free}


def test_no_circle_between_the_files_of_csrc() -> None:
    uses: dict[str, set[str]] = {}
    for source in cpp_files():
        targets = (t for b, t in INCLUDE.findall(source.read_text(encoding="utf-8")) if b == '"')
        found = [f for f in (included_file(source, target) for target in targets) if f]
        uses.setdefault(unit(source), set()).update(map(unit, found))
    assert not circles(uses)


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]
    assert circles({"a": {"a", "b"}, "b": set()}) == []


def test_python_rooms_use_only_what_the_table_allows() -> None:
    wrong = []
    for source in python_files():
        room = python_room(source)
        for line, dotted in imports_of(source):
            used = used_room(dotted)
            if used not in {room, *PYTHON_ROOMS[room]}:
                wrong.append(f"{source.relative_to(ROOT)}:{line}: {room} -> {used} ({dotted})")
    assert not wrong, "\n".join(wrong)


def test_the_command_line_and_the_server_use_public_names_only() -> None:
    private = [
        f"{source.relative_to(ROOT)}:{line}: {dotted}"
        for source in python_files()
        if python_room(source) in {"cli", "server"}
        for line, dotted in imports_of(source)
        if any(part.startswith("_") and not part.startswith("__") for part in dotted.split("."))
    ]
    assert not private, "\n".join(private)


@pytest.mark.parametrize(
    ("table", "name"), [(CPP_ROOMS, "csrc"), (PYTHON_ROOMS, "python")], ids=["csrc", "python"]
)
def test_the_table_has_no_circle(table: dict[str, set[str]], name: str) -> None:
    left = {room: set(uses) - {"_native"} for room, uses in table.items()}
    while left:
        free = {room for room, uses in left.items() if not uses & set(left)}
        assert free, f"rooms of {name} in a circle: {sorted(left)}"
        left = {room: uses for room, uses in left.items() if room not in free}


def test_the_readers_of_includes_and_imports_see_every_form() -> None:
    text = "from ..loading import names\nimport llama_rt._native as n\nfrom llama_rt import Llama\n"
    assert python_imports(text, ("llama_rt", "cli")) == [
        (1, "loading.names"),
        (2, "_native"),
        (3, "Llama"),
    ]
    assert [used_room(name) for name in ("errors.ShapeError", "_native", "Llama")] == [
        "errors",
        "_native",
        "__init__",
    ]
    assert INCLUDE.findall('#include "core/dtype.h"\n#  include <cuda.h>\n// #include "x.h"\n') == [
        ('"', "core/dtype.h"),
        ("<", "cuda.h"),
    ]
