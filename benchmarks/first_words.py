"""What a newcomer waits for: the import, the built-in model, the first words of the command.

    python benchmarks/first_words.py

Every figure comes from a new process; medians over the rounds, and the best, since other work on
the machine only adds.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

IMPORT = (
    "import time, numpy; t = time.perf_counter(); import llama_rt; print(time.perf_counter() - t)"
)
LOAD = (
    "import time, llama_rt; t = time.perf_counter(); llama_rt.Llama.load(progress=False); "
    "print(time.perf_counter() - t)"
)
COMMAND = (sys.executable, "-m", "llama_rt", "run", "--max-tokens", "64", "Once upon a time")


def reported(code: str) -> float:
    """Seconds that `code` prints in a process of its own."""
    command = [sys.executable, "-c", code]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def first_words() -> float:
    """Seconds from starting the command to its first byte; a pipe gets the continuation alone."""
    began = time.perf_counter()
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        seconds = time.perf_counter() - began
        process.stdout.read()
    if process.returncode:
        msg = f"{' '.join(COMMAND)} ended with {process.returncode}"
        raise SystemExit(msg)
    return seconds


def main() -> None:
    """Prints a line a figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    rounds = range(parser.parse_args().rounds)
    figures = {
        "import beyond numpy's": [reported(IMPORT) for _ in rounds],
        "loading the built-in model": [reported(LOAD) for _ in rounds],
        "from the command to its first words": [first_words() for _ in rounds],
    }
    for name, seconds in figures.items():
        median, best = statistics.median(seconds), min(seconds)
        print(f"{name:<36} {median:7.3f} s, best {best:.3f} s")


if __name__ == "__main__":
    main()
