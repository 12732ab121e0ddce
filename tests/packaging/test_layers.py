"""Who may use whom: the table of `docs/architecture.md`, section 2, against the source.

Packages are folders of `csrc/` and modules of `python/llama_rt/`. An include or import that the
table does not allow fails here with the line that made it.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TypeVar

import pytest

Name = TypeVar("Name", str, Path)  # of a package or file
ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
PACKAGE = ROOT / "python" / "llama_rt"

CPP_PACKAGES = {
    "core": set(),
    "platform": {"core"},
    "backend": {"core"},
    "cpu": {"backend", "platform", "core"},
    "cuda": {"backend", "core"},
    "model": {"backend", "core"},
    "sampling": {"backend", "core"},
    "runner": {"sampling", "model", "backend", "core"},
    "tokenizer": {"core"},
    "bindings": {
        *("core", "platform", "backend", "cpu", "cuda", "model", "sampling", "runner"),
        "tokenizer",
    },
}
# Headers from outside the project, by prefix, and the only packages that may include them.
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

PYTHON_PACKAGES = {
    "errors": set(),
    "files": {"errors"},
    "config": {"errors"},
    "formats": {"errors", "files"},
    "tokenizer_files": {"errors", "files"},
    "tokenizer": {"_native", "errors", "files", "tokenizer_files"},
    "checkpoint": {"_native", "config", "errors", "files", "formats", "tokenizer"},
    "convert": {
        *("_native", "chat", "checkpoint", "config", "errors", "files", "formats", "tokenizer"),
        "tokenizer_files",
    },
    "adapters": {"_native", "checkpoint", "config", "errors", "files", "formats"},
    "chat": {"errors", "tokenizer", "tokenizer_files"},
    "sampling": {"_native", "errors"},
    "engine": {"_native", "errors", "tokenizer"},
    "hardware": {"_native", "errors"},
    "memory": {"_native", "checkpoint", "config", "convert", "errors", "hardware"},
    "api": {
        *("_native", "adapters", "chat", "checkpoint", "config", "convert", "engine", "errors"),
        *("files", "formats", "hardware", "memory", "sampling", "tokenizer"),
    },
    "benchmark": {
        *("_native", "api", "checkpoint", "config", "convert", "errors", "formats", "hardware"),
        "memory",
    },
    "evaluation": {"api", "errors"},
    "cli": {
        *("__init__", "adapters", "api", "benchmark", "chat", "checkpoint", "convert", "errors"),
        *("evaluation", "hardware", "memory", "tokenizer"),
    },
    "server": {"__init__", "errors"},
    "__main__": {"cli"},
}
# The packages that people and programs reach; they see what other packages export, no more.
ENTRY_POINTS = {"cli", "server", "__main__"}
# The package's own `__init__` re-exports from any package but the entry points.
PYTHON_PACKAGES["__init__"] = set(PYTHON_PACKAGES) - ENTRY_POINTS

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


def included_package(source: Path, target: str) -> str | None:
    """The package of a quoted include; None if it is not ours."""
    found = included_file(source, target)
    return found.relative_to(CSRC).parts[0] if found else None


def cpp_edges(source: Path) -> list[tuple[str, str, str]]:
    """(package used, kind, include text) for each include line of a file."""
    edges = []
    for bracket, target in INCLUDE.findall(source.read_text(encoding="utf-8")):
        package = included_package(source, target) if bracket == '"' else None
        edges.append((package or target, "package" if package else "outside", target))
    return edges


def python_package(path: Path) -> str:
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


def used_package(dotted: str) -> str:
    """The package that a dotted name belongs to; `__init__` for a bare public name."""
    first = dotted.split(".")[0]
    is_module = (PACKAGE / f"{first}.py").is_file() or (PACKAGE / first / "__init__.py").is_file()
    return first if is_module or first == "_native" else "__init__"


def test_every_folder_of_csrc_is_a_package() -> None:
    packages = {path.relative_to(CSRC).parts[0] for path in cpp_files()}
    assert packages
    assert packages <= set(CPP_PACKAGES)


def test_every_python_package_is_in_the_table() -> None:
    packages = {python_package(path) for path in python_files()}
    assert packages
    assert packages <= set(PYTHON_PACKAGES)


def test_cpp_packages_use_only_what_the_table_allows() -> None:
    wrong = []
    for source in cpp_files():
        package = source.relative_to(CSRC).parts[0]
        for used, kind, text in cpp_edges(source):
            if kind == "package" and used != package and used not in CPP_PACKAGES[package]:
                wrong.append(f"{source.relative_to(ROOT)}: {package} -> {used} ({text})")
    assert not wrong, "\n".join(wrong)


def test_outside_headers_stay_in_their_packages() -> None:
    wrong = []
    for source in cpp_files():
        package = source.relative_to(CSRC).parts[0]
        for used, kind, _ in cpp_edges(source):
            packages = [r for prefix, r in OUTSIDE_HEADERS.items() if used.startswith(prefix)]
            if kind == "outside" and any(package not in allowed for allowed in packages):
                wrong.append(f"{source.relative_to(ROOT)}: <{used}>")
    assert not wrong, "\n".join(wrong)


def test_quoted_includes_exist() -> None:
    missing = [
        f"{source.relative_to(ROOT)}: {target}"
        for source in cpp_files()
        for bracket, target in INCLUDE.findall(source.read_text(encoding="utf-8"))
        if bracket == '"' and included_package(source, target) is None
    ]
    assert not missing, "\n".join(missing)


def unit(path: Path) -> Path:
    """A header and its source are one unit."""
    return path.with_suffix("")


def imported_file(dotted: str) -> Path | None:
    """The source of the longest beginning of a dotted name that is a module; None if native."""
    parts = dotted.split(".")
    for count in range(len(parts), -1, -1):
        place = PACKAGE.joinpath(*parts[:count])
        if count and place.with_suffix(".py").is_file():
            return place.with_suffix(".py")
        if (place / "__init__.py").is_file() and parts[count : count + 1] != ["_native"]:
            return place / "__init__.py"
    return None


def import_graph() -> dict[Path, set[Path]]:
    """Which files each file imports, at module level and inside functions alike."""
    graph: dict[Path, set[Path]] = {}
    for source in python_files():
        found = {imported_file(dotted) for _, dotted in imports_of(source)}
        graph[source] = {path for path in found if path is not None}
    return graph


def find_circle(graph: dict[Name, set[Name]]) -> list[Name]:
    """Files or packages that use each other in a circle, in order; [] if there are none."""
    done: set[Name] = set()

    def visit(path: Name, trail: list[Name]) -> list[Name]:
        if path in trail:
            return trail[trail.index(path) :]
        if path not in done:
            for used in sorted(graph.get(path, ())):
                if circle := visit(used, [*trail, path]):
                    return circle
            done.add(path)
        return []

    for path in sorted(graph):
        if circle := visit(path, []):
            return circle
    return []


def exported(package: str) -> set[str]:
    """The literal `__all__` of a package or module directly inside `llama_rt`."""
    source = imported_file("" if package == "__init__" else package)
    assert source is not None, package
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def is_public(dotted: str, source: Path) -> bool:
    """Whether an import, or every use of an imported package, names what the package exports."""
    package = used_package(dotted)
    rest = dotted.split(".")[package != "__init__" :]
    if rest:
        return len(rest) == 1 and rest[0] in exported(package)
    tree = ast.parse(source.read_text(encoding="utf-8"))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == package
    }
    return used <= exported(package)


def test_no_circle_between_the_files_of_csrc() -> None:
    graph: dict[Path, set[Path]] = {}
    for source in cpp_files():
        targets = (t for b, t in INCLUDE.findall(source.read_text(encoding="utf-8")) if b == '"')
        found = (included_file(source, target) for target in targets)
        units = {unit(path) for path in found if path} - {unit(source)}
        graph.setdefault(unit(source), set()).update(units)
    assert not find_circle(graph)


def test_python_packages_use_only_what_the_table_allows() -> None:
    wrong = []
    for source in python_files():
        package = python_package(source)
        for line, dotted in imports_of(source):
            used = used_package(dotted)
            if used not in {package, *PYTHON_PACKAGES[package]}:
                wrong.append(f"{source.relative_to(ROOT)}:{line}: {package} -> {used} ({dotted})")
    assert not wrong, "\n".join(wrong)


def test_python_files_do_not_import_each_other_in_a_circle() -> None:
    graph = import_graph()
    assert sum(map(len, graph.values())) > len(graph)
    circle = find_circle(graph)
    assert not circle, " -> ".join(str(path.relative_to(PACKAGE)) for path in circle)


def test_entry_points_use_exported_names_only() -> None:
    private = [
        f"{source.relative_to(ROOT)}:{line}: {dotted}"
        for source in python_files()
        if python_package(source) in ENTRY_POINTS
        for line, dotted in imports_of(source)
        if used_package(dotted) != python_package(source) and not is_public(dotted, source)
    ]
    assert not private, "\n".join(private)


@pytest.mark.parametrize(
    ("table", "name"), [(CPP_PACKAGES, "csrc"), (PYTHON_PACKAGES, "python")], ids=["csrc", "python"]
)
def test_the_table_has_no_circle(table: dict[str, set[str]], name: str) -> None:
    circle = find_circle(table)
    assert not circle, f"packages of {name} in a circle: {circle}"


def test_the_readers_of_includes_and_imports_see_every_form() -> None:
    text = "from ..formats import gguf\nimport llama_rt._native as n\nfrom llama_rt import Llama\n"
    assert python_imports(text, ("llama_rt", "cli")) == [
        (1, "formats.gguf"),
        (2, "_native"),
        (3, "Llama"),
    ]
    assert [used_package(name) for name in ("errors.ShapeError", "_native", "Llama")] == [
        "errors",
        "_native",
        "__init__",
    ]
    assert imported_file("formats.gguf.read_gguf") == PACKAGE / "formats" / "gguf.py"
    assert imported_file("Llama") == PACKAGE / "__init__.py"
    assert imported_file("_native.Backend") is None
    a, b, c = map(Path, "abc")
    assert find_circle({a: {b}, b: {c}, c: {b}}) == [b, c]
    assert find_circle({a: {b, c}, b: {c}, c: set()}) == []
    assert INCLUDE.findall('#include "core/dtype.h"\n#  include <cuda.h>\n// #include "x.h"\n') == [
        ('"', "core/dtype.h"),
        ("<", "cuda.h"),
    ]
