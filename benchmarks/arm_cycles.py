"""Counts what the inner loops of quantized products cost on ARM processors, without one.

The tile of a format is compiled for aarch64, and llvm-mca simulates its innermost loop with its
model of a processor: cycles for 64 k of 16 rows of weights, and multiply-adds a cycle. Caches and
memory are perfect there, and it says nothing of what a real processor does; no figure was timed.

Needs aarch64-linux-gnu-g++ and llvm-mca (its models differ between versions; 19 has the first of
Neoverse V2):

    python benchmarks/arm_cycles.py --mca llvm-mca-19
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[1] / "csrc"
SIMD = '-DLLAMA_RT_SIMD="cpu/kernels/arm/neon/simd.h"'
MARCH = {
    "neon": "armv8-a",
    "neon_dotprod": "armv8.2-a+dotprod",
    "neon_i8mm": "armv8.2-a+dotprod+i8mm",
}
FLAGS = ("-std=c++20", "-O3", "-fno-math-errno", "-ffp-contract=off", "-fno-schedule-insns")
# What llvm-mca has models of, and the first level that each lacks an instruction of.
PROCESSORS = {
    "cortex-a72": "neon_dotprod",
    "neoverse-n1": "neon_i8mm",
    "neoverse-v2": None,
    "apple-m1": "neon_i8mm",
    "apple-m2": None,
}
TOKENS = {"neon": (1, 2), "neon_dotprod": (1, 4), "neon_i8mm": (1, 8)}
FORMATS = ("Q4_0", "Q8_0", "Q4_K", "Q6_K")
PANEL_ROWS, UNIT = 16, 64
SOURCE = """
#include <cstring>
#include "cpu/kernels/gemm/quantized_gemm.h"
#ifdef __ARM_FEATURE_MATMUL_INT8
#include "cpu/kernels/arm/neon_i8mm/matrix_kernel.h"
#endif
namespace llama_rt::cpu::LLAMA_RT_LEVEL {{
void loop({tile}& sums, const std::byte* w, const std::byte* expanded, {inputs} x,
          int64_t units) noexcept {{
  auto tile = sums;
  tile.run({arguments});
  sums = tile;
}}
}}
"""
PRODUCT = re.compile(r"\s(us)?(dot|mmla)|\s[su](us)?(dot|mmla)|\ssm[lu]l+a?2?\s|\ssmlal2?\s")


@dataclass
class Loop:
    """The instructions of an innermost loop, and the rows and tokens that it multiplies."""

    text: str
    rows: int
    tokens: int

    @property
    def instructions(self) -> int:
        """Lines that are no labels."""
        return sum(not line.endswith(":") for line in self.text.splitlines())


def source_of(level: str, name: str, tokens: int) -> tuple[str, int]:
    """A function with the loop of a tile, and the rows of the tile."""
    if level == "neon_i8mm" and tokens > 1:
        rows = 8
        tile = f"MatrixTile<Format{name}, ExpandedWeights, {tokens // 2}, {rows // 4}, 0>"
        inputs, arguments = f"{tile}::Inputs", "w, expanded, x, units"
    else:
        rows = 8 if level == "neon" and tokens > 1 else PANEL_ROWS
        tile = f"QuantizedTile<Format{name}, {tokens}, {rows // 4}, 0>"
        inputs, arguments = "Inputs", "w, x, units, false"
    return SOURCE.format(tile=tile, inputs=inputs, arguments=arguments), rows


def innermost(assembly: str) -> str:
    """The smallest loop that multiplies."""
    lines = assembly.splitlines()
    labels: dict[str, int] = {}
    found: list[list[str]] = []
    for at, line in enumerate(lines):
        label = re.match(r"(\.L\w+):", line)
        if label:
            labels[label[1]] = at
        jump = re.match(r"\s+(?:b\.?\w*|cbn?z|tbn?z)\s.*?(\.L\w+)\s*$", line)
        if jump and jump[1] in labels:
            body = lines[labels[jump[1]] : at + 1]
            if any(PRODUCT.search(one) for one in body):
                found.append(body)
    body = min(found, key=len)
    kept = [one for one in body if not re.match(r"\s+\.|\s*//|\.LF|\.LV|\.LB", one)]
    return "\n".join(kept) + "\n"


def compiled(level: str, name: str, tokens: int) -> Loop:
    """The loop of one tile."""
    source, rows = source_of(level, name, tokens)
    command = ["aarch64-linux-gnu-g++", *FLAGS, f"-march={MARCH[level]}", "-x", "c++", "-"]
    command += [f"-I{SOURCES}", f"-DLLAMA_RT_LEVEL={level}", SIMD, "-S", "-o", "-"]
    result = subprocess.run(command, input=source, capture_output=True, text=True, check=True)
    return Loop(innermost(result.stdout), rows, tokens)


def cycles(loop: Loop, mca: str, processor: str) -> float:
    """Cycles of one pass of the loop."""
    passes = 100
    with tempfile.NamedTemporaryFile("w", suffix=".s") as file:
        file.write(loop.text)
        file.flush()
        command = [mca, "-mtriple=aarch64-linux-gnu", f"-mcpu={processor}"]
        command += [f"-iterations={passes}", file.name]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"Total Cycles:\s+(\d+)", result.stdout)
    if not found:
        message = f"{mca} counts no cycles"
        raise ValueError(message)
    return int(found[1]) / passes


def main() -> None:
    """Prints a table in Markdown: cycles for 16 x 64 weights (multiply-adds a cycle)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mca", default="llvm-mca", help="the program to count with")
    parser.add_argument("--levels", default=",".join(MARCH))
    parser.add_argument("--formats", default=",".join(FORMATS))
    args = parser.parse_args()
    levels = list(MARCH)
    print("| level | format | tokens |", " | ".join(PROCESSORS), "|")
    print("|---" * (3 + len(PROCESSORS)) + "|")
    for level in args.levels.split(","):
        for name in args.formats.split(","):
            for tokens in TOKENS[level]:
                loop = compiled(level, name, tokens)
                cells = []
                for processor, lacking in PROCESSORS.items():
                    if lacking and levels.index(level) >= levels.index(lacking):
                        cells.append("")
                        continue
                    count = cycles(loop, args.mca, processor) * PANEL_ROWS / loop.rows
                    cells.append(f"{count:.0f} ({PANEL_ROWS * UNIT * tokens / count:.1f})")
                print("|", " | ".join([level, name, str(tokens), *cells]), "|")


if __name__ == "__main__":
    main()
