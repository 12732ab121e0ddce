"""What an installed wheel holds; the list is pip's own record of the installation."""

from __future__ import annotations

import json
from importlib.metadata import Distribution, PackageNotFoundError, distribution

import pytest

LARGEST_MODULE = 16 << 20


@pytest.fixture(scope="module")
def installed() -> Distribution:
    try:
        found = distribution("llama-rt")
    except PackageNotFoundError:
        pytest.skip("imported from the source tree, not installed")
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        pytest.skip("installed in editable mode: there is no wheel to look into")
    return found


def names(found: Distribution) -> list[str]:
    return [path.as_posix() for path in found.files or []]


def test_holds_the_module_the_stub_and_the_licence(installed: Distribution) -> None:
    files = names(installed)
    assert {"llama_rt/__init__.py", "llama_rt/_native.pyi", "llama_rt/py.typed"} <= set(files)
    assert len([f for f in files if f.startswith("llama_rt/_native.") and f.endswith(".so")]) == 1
    assert any(f.endswith("licenses/LICENSE") for f in files)


def test_holds_nothing_else(installed: Distribution) -> None:
    tops = {f.split("/")[0] for f in names(installed) if not f.startswith("../")}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"llama_rt"}
    foreign = (".h", ".cpp", ".inl", ".a", ".o", ".cmake", ".txt")
    inside = [f for f in names(installed) if f.startswith("llama_rt/")]
    assert [f for f in inside if f.endswith(foreign)] == []


def test_module_is_of_a_sensible_size(installed: Distribution) -> None:
    module = next(f for f in installed.files or [] if f.name.endswith(".so"))
    assert 100_000 < module.locate().stat().st_size < LARGEST_MODULE


def test_declares_its_command(installed: Distribution) -> None:
    commands = installed.entry_points.select(group="console_scripts")
    assert {entry.name: entry.value for entry in commands} == {"llama-rt": "llama_rt.cli:main"}
