"""The audit of tier objects lets good objects pass and stops bad ones.

`cmake/check_tiers.cmake` runs at every build; here it is given objects whose symbols are known.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

AUDIT = Path(__file__).parents[2] / "cmake" / "check_tiers.cmake"

GOOD = """
namespace llama_rt::cpu::avx2 {
template <typename T> T twice(T x) { return x + x; }
float kernel(float x) { return twice(x); }
}
"""
# An inline function of a common header, emitted with the tier's instructions.
BAD = """
namespace llama_rt { inline float shared(float x) { return x * 3; } }
namespace llama_rt::cpu::avx2 {
float (*address())(float) { return &llama_rt::shared; }
}
"""


def working(name: str) -> str:
    path = shutil.which(name)
    if path is None or subprocess.run([path, "--version"], capture_output=True).returncode:
        pytest.skip(f"{name} is not on this machine")
    return path


def audit(tmp_path: Path, source: str, tier: str) -> subprocess.CompletedProcess[str]:
    code, built = tmp_path / "code.cpp", tmp_path / "code.o"
    code.write_text(source)
    compile_it = [working("g++"), "-std=c++20", "-O0", "-c", str(code), "-o", str(built)]
    subprocess.run(compile_it, check=True)
    definitions = [f"-DNM={working('nm')}", f"-DTIER={tier}", f"-DOBJECTS={built}"]
    command = [working("cmake"), *definitions, "-P", str(AUDIT)]
    return subprocess.run(command, capture_output=True, text=True)


def test_symbols_of_the_tier_pass(tmp_path: Path) -> None:
    result = audit(tmp_path, GOOD, "avx2")
    assert result.returncode == 0, result.stderr


def test_a_weak_symbol_of_common_code_stops_the_build(tmp_path: Path) -> None:
    result = audit(tmp_path, BAD, "avx2")
    assert result.returncode != 0
    assert "shared" in result.stderr
    assert "avx2" in result.stderr


def test_a_template_of_another_tier_stops_the_build(tmp_path: Path) -> None:
    assert audit(tmp_path, GOOD, "avx512").returncode != 0
