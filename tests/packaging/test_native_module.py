"""The built module: what it links, what it exports, what importing it loads."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

import llama_rt
from llama_rt import _native

MODULE = Path(_native.__file__)
ALLOWED = re.compile(
    r"^(libc|libm|libstdc\+\+|libgcc_s|libpthread|libdl|librt|ld-linux\S*)\.so\.\d+$"
)


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} (binutils) is not on this machine")
    return path


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_needs_only_the_c_and_cpp_libraries() -> None:
    dynamic = output(tool("readelf"), "-d", str(MODULE))
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic)
    assert any(name.startswith("libc.so") for name in needed)
    assert [name for name in needed if not ALLOWED.match(name)] == []


def test_searches_no_folder_for_libraries() -> None:
    dynamic = output(tool("readelf"), "-d", str(MODULE))
    assert "RPATH" not in dynamic
    assert "RUNPATH" not in dynamic


def test_exports_nothing_but_its_entry() -> None:
    """Hidden symbols: two extension modules in one process cannot meet by accident.

    Weak ones are the standard library's own templates, the same in every module.
    """
    symbols = output(tool("nm"), "-D", "--defined-only", str(MODULE)).splitlines()
    strong = {name for _, kind, name in map(str.split, symbols) if kind not in "VWu"}
    assert strong == {"PyInit__native"}


def test_stack_is_not_executable() -> None:
    headers = output(tool("readelf"), "-lW", str(MODULE))
    stack = next(line for line in headers.splitlines() if "GNU_STACK" in line)
    assert "E" not in stack.split()[-2]


@pytest.mark.parametrize(
    "code", ["import llama_rt", "import llama_rt.cli", "import llama_rt.checkpoint, llama_rt.chat"]
)
def test_import_loads_nothing_heavy(code: str) -> None:
    heavy = ("torch", "transformers", "tokenizers", "huggingface_hub", "safetensors", "gguf")
    listed = f"{code}; import sys; print([m for m in {heavy!r} if m in sys.modules])"
    assert output(sys.executable, "-W", "error", "-c", listed).strip() == "[]"


def test_version_is_the_distributions() -> None:
    try:
        installed = version("llama-rt")
    except PackageNotFoundError:
        pytest.skip("imported from the source tree, not installed")
    assert llama_rt.__version__ == installed
