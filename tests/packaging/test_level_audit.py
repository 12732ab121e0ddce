"""The audit of ISA levels lets good objects pass and stops builds that could run a level too early.

`cmake/check_levels.py` runs at every build; here it is given objects whose faults are known.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

AUDIT = Path(__file__).parents[2] / "cmake" / "check_levels.py"
pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the flags are x86-64's")

TABLE = """
struct Table { void (*scale)(float*, int) noexcept; };
namespace llama_rt::cpu::avx2 {
extern const Table kTable;
namespace {
template <typename T> T twice(T x) { return x + x; }
void scale(float* x, int n) noexcept { for (int i = 0; i < n; ++i) x[i] = twice(x[i]); }
}
constinit const Table kTable = {scale};
}
"""
# Common code that takes the level's kernel from its table, and calls it by the pointer.
USES_TABLE = """
struct Table { void (*scale)(float*, int) noexcept; };
namespace llama_rt::cpu::avx2 { extern const Table kTable; }
Table chosen() { return llama_rt::cpu::avx2::kTable; }
"""
# The fault of the first builds: a table filled by a function that has the level's instructions.
REGISTERS = """
struct Table { float values[64]; };
namespace llama_rt::cpu::avx2 {
void register_kernels(Table& t) { for (float& x : t.values) x += 1.0f; }
}
"""
CALLS_REGISTRATION = """
struct Table { float values[64]; };
namespace llama_rt::cpu::avx2 { void register_kernels(Table& table); }
Table filled() { Table t{}; llama_rt::cpu::avx2::register_kernels(t); return t; }
"""
INITIALISER = """
namespace llama_rt::cpu::avx2 {
float start();
extern const float kStart;
const float kStart = start();
}
"""
# An inline function of a common header, emitted with the level's instructions.
SHARED_INLINE = """
namespace llama_rt { inline float shared(float x) { return x * 3; } }
namespace llama_rt::cpu::avx2 { float (*address())(float) { return &llama_rt::shared; } }
"""
CLONES = """
__attribute__((target_clones("default", "avx2"))) float sum_of(const float* x, int n) {
  float sum = 0;
  for (int i = 0; i < n; ++i) sum += x[i];
  return sum;
}
"""


def working(name: str) -> str:
    path = shutil.which(name)
    if path is None or subprocess.run([path, "--version"], capture_output=True).returncode:
        pytest.skip(f"{name} is not on this machine")
    return path


def audit(folder: Path, *sources: tuple[str, str]) -> subprocess.CompletedProcess[str]:
    """Compiles (level, source) pairs, those of a level for AVX2, and audits the objects."""
    lines = []
    for i, (level, source) in enumerate(sources):
        code, built = folder / f"{i}.cpp", folder / f"{i}.o"
        code.write_text(source)
        flags = [] if level == "common" else ["-mavx2", "-mfma"]
        compile_it = [working("g++"), "-std=c++20", "-O1", "-ftree-vectorize", *flags]
        subprocess.run([*compile_it, "-c", str(code), "-o", str(built)], check=True)
        lines.append(f"{level}\t{built}\n")
    listed = folder / "objects.txt"
    listed.write_text("".join(lines))
    tools = ["--nm", working("nm"), "--objdump", working("objdump")]
    command = [sys.executable, str(AUDIT), *tools, str(listed)]
    return subprocess.run(command, capture_output=True, text=True)


def test_kernels_behind_a_table_pass(tmp_path: Path) -> None:
    result = audit(tmp_path, ("avx2", TABLE), ("common", USES_TABLE))
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("sources", "named"),
    [
        pytest.param(
            [("avx2", REGISTERS), ("common", CALLS_REGISTRATION)],
            ["avx2::register_kernels", "not through a table"],
            id="registration-runs-vector-code",
        ),
        pytest.param([("avx2", INITIALISER)], ["static initialiser"], id="static-initialiser"),
        pytest.param([("avx2", SHARED_INLINE)], ["llama_rt::shared"], id="shared-inline-function"),
        pytest.param([("avx512", SHARED_INLINE)], ["weak symbol"], id="another-level-s-namespace"),
        pytest.param([("common", CLONES)], ["sum_of", "common code"], id="function-clones"),
        pytest.param([("avx2", CLONES)], ["sum_of", "ifunc"], id="clones-in-a-level"),
    ],
)
def test_a_level_that_could_run_too_early_stops_the_build(
    tmp_path: Path, sources: list[tuple[str, str]], named: list[str]
) -> None:
    result = audit(tmp_path, *sources)
    assert result.returncode == 1, result.stdout + result.stderr
    for text in named:
        assert text in result.stderr


def test_vector_instructions_in_common_code_stop_the_build(tmp_path: Path) -> None:
    built = tmp_path / "code.o"
    (tmp_path / "code.cpp").write_text(REGISTERS)
    source = str(tmp_path / "code.cpp")
    command = [working("g++"), "-O3", "-mavx2", "-c", source, "-o", str(built)]
    subprocess.run(command, check=True)
    (tmp_path / "objects.txt").write_text(f"common\t{built}\n")
    tools = ["--nm", working("nm"), "--objdump", working("objdump")]
    command = [sys.executable, str(AUDIT), *tools, str(tmp_path / "objects.txt")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert "register_kernels" in result.stderr
