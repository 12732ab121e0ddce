"""Audits the objects of a build: no code of an ISA level can run before that level is chosen.

A level's functions may be reached through its kernel tables alone, which are data. So
  - an object of a level has no static initialiser and no function that the loader resolves;
  - it defines no weak function outside its namespace, which common code could be linked to;
  - no other object refers to one of its functions;
  - common objects hold no instruction beyond the architecture's baseline.

Usage: check_levels.py --nm NM --objdump OBJDUMP LIST, where each line of LIST is a level, or
`common`, a tab and an object. Exits with 1 and names the functions if something is wrong.
"""

from __future__ import annotations

import argparse
import bisect
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

COMMON = "common"
# Instructions that only code of a level may hold: on x86-64 those with VEX or EVEX prefixes and
# tiles, on aarch64 what came after ARMv8.0.
BEYOND_BASELINE = {
    "x86-64": r"v(?!err|erw|mcall|mfunc)[a-z]\w*|[^#\n<]*%[yz]mm\d|tile\w+|[^#\n<]*%tmm\d|ldtilecfg"
    r"|andn\b|bextr|bls[ir]|blsmsk|bzhi|mulx|pdep|pext|rorx|sarx|shlx|shrx",
    "aarch64": r"(us|su|[su])dot\b|[su]mmla|usmmla|bf(dot|mmla|mla|cvt)\w*"
    r"|f(?!cvtl|cvtn)\w+\s+v\d+\.[48]h",
}
INITIALISERS = re.compile(r"\s\.(init_array|preinit_array|ctors)\b")


def output(*command: str) -> str:
    """What a command prints; raises CalledProcessError if it fails."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Object:
    """One object file: its symbols by kind, as nm prints them."""

    def __init__(self, path: str, nm: str) -> None:
        self.path = path
        self.symbols: list[tuple[str, str]] = []
        for line in output(nm, "-p", path).splitlines():
            found = re.match(r"\s*(?:[0-9a-f]+\s+)?([A-Za-z]) (\S+)$", line)
            if found:
                self.symbols.append((found[1], found[2]))

    def names(self, kinds: str) -> set[str]:
        """Symbols of these kinds (nm's letters)."""
        return {name for kind, name in self.symbols if kind in kinds}


def vector_functions(path: str, objdump: str) -> Iterator[tuple[str, str]]:
    """Yields functions with an instruction beyond the baseline, and the first such instruction."""
    text = output(objdump, "-d", "--no-show-raw-insn", path)
    architecture = re.search(r"file format elf64-(x86-64|littleaarch64|aarch64)", text)
    if not architecture:
        return
    name = "x86-64" if architecture[1] == "x86-64" else "aarch64"
    wanted = re.compile(rf"^\s+[0-9a-f]+:\s+({BEYOND_BASELINE[name]}).*$", re.MULTILINE)
    starts = [(at.start(), at[1]) for at in re.finditer(r"^[0-9a-f]+ <(.+)>:$", text, re.MULTILINE)]
    seen: set[str] = set()
    for found in wanted.finditer(text):
        function = starts[bisect.bisect(starts, (found.start(), "")) - 1][1]
        if function not in seen:
            seen.add(function)
            yield function, " ".join(found[0].split()[1:])


def audit(objects: dict[str, list[Object]], objdump: str) -> Iterator[str]:
    """Says what is wrong, a line each, with mangled names."""
    for level, own in objects.items():
        if level == COMMON:
            with ThreadPoolExecutor() as pool:
                found = pool.map(lambda one: list(vector_functions(one.path, objdump)), own)
            for one, functions_of_one in zip(own, found, strict=True):
                for function, instruction in functions_of_one:
                    yield f"common code, {one.path}: {function} holds `{instruction}`"
            continue
        namespace = f"3cpu{len(level)}{level}"
        functions: set[str] = set().union(*(one.names("TWi") for one in own))
        for one in own:
            if INITIALISERS.search(output(objdump, "-h", one.path)):
                yield f"level {level}, {one.path}: a static initialiser would run when it is loaded"
            for name in sorted(one.names("i")):
                yield f"level {level}, {one.path}: {name} is resolved by the loader (ifunc)"
            for name in sorted(one.names("VWu")):
                if namespace not in name and not re.match(r"DW\.ref|__clang_call_terminate", name):
                    yield f"level {level}, {one.path}: weak symbol outside its namespace: {name}"
        for other, theirs in objects.items():
            for one in theirs if other != level else []:
                for name in sorted(one.names("U") & functions):
                    yield f"level {level}: {name} is reached from {one.path}, not through a table"


def main() -> int:
    """Reads the list, audits, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nm", required=True)
    parser.add_argument("--objdump", required=True)
    parser.add_argument("list", type=Path)
    args = parser.parse_args()
    objects: dict[str, list[Object]] = {}
    for line in args.list.read_text(encoding="utf-8").splitlines():
        level, _, path = line.partition("\t")
        objects.setdefault(level, []).append(Object(path, args.nm))
    wrong = list(audit(objects, args.objdump))
    if wrong:
        text = subprocess.run(["c++filt"], input="\n".join(wrong), capture_output=True, text=True)
        sys.stderr.write("ISA levels:\n" + (text.stdout or "\n".join(wrong)) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
