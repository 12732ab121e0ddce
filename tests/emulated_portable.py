"""Builds the package as for a system about which only POSIX and C++ are known.

It has `csrc/platform/system/portable.cpp` in place of the Linux source, `processor/generic.cpp` in
place of x86's, and so the scalar level alone. The objects are otherwise those of
`emulated_module.py`. `python tests/emulated_portable.py` builds it and prints the folder to put
first on the Python path.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import emulated_device
from emulated_device import MACHINE, ROOT, compiled
from emulated_module import flags, host_sources

PLATFORM = ROOT / "csrc" / "platform"
PORTABLE = [PLATFORM / "system" / "portable.cpp", PLATFORM / "processor" / "generic.cpp"]


@cache
def package() -> Path:
    """The folder that holds `llama_rt` without what Linux and x86 add."""
    sources = [p for p in host_sources() if p not in MACHINE]
    sources += [*PORTABLE, ROOT / "csrc" / "cuda" / "absent.cpp"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda source: compiled(source, *flags(source)), sources))
    return emulated_device.package("portable", objects)


if __name__ == "__main__":
    sys.stdout.write(f"{package()}\n")
