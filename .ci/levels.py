"""Prints which ISA levels a run of CI tried, and how: the table at the end of `.ci/run`.

The file named by the argument has a line for each trial, four fields with tabs between them:
architecture, level, how ("hardware", "emulated", "qemu MODEL" or "not run") and result. Every step
adds its own. Levels that no line names are printed as not run.
"""

from __future__ import annotations

import sys
from pathlib import Path

LEVELS = {
    "x86-64": ("scalar", "avx2", "avx2_vnni", "avx512", "avx512_bf16", "amx"),
    "aarch64": ("scalar", "neon", "neon_dotprod", "neon_i8mm"),
}
HEADINGS = ("architecture", "level", "how", "result")


def rows(text: str) -> list[tuple[str, ...]]:
    """What was tried, by architecture and level; then what was not."""
    found = [tuple(line.split("\t")) for line in text.splitlines() if line.strip()]
    bad = [line for line in found if len(line) != len(HEADINGS)]
    if bad:
        msg = f"not four fields between tabs: {bad[0]}"
        raise ValueError(msg)
    named = {line[:2] for line in found}
    known = [(a, level) for a, levels in LEVELS.items() for level in levels]
    found += [(*one, "not run", "no step tried it") for one in known if one not in named]
    place = {one: i for i, one in enumerate(known)}
    return sorted(found, key=lambda line: place.get((line[0], line[1]), len(place)))


def table(text: str) -> str:
    """The rows under headings, in columns."""
    lines = [HEADINGS, *rows(text)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADINGS) - 1)]
    return "\n".join(
        "  ".join([*(x.ljust(w) for x, w in zip(line, widths, strict=False)), line[-1]])
        for line in lines
    )


if __name__ == "__main__":
    path = Path(sys.argv[1])
    print(table(path.read_text(encoding="utf-8") if path.exists() else ""))
