"""What the machine itself can do: bytes per second from memory, multiply-adds per second."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from llama_rt import _native

SOURCE = Path(__file__).with_name("peaks.cpp")
STEADY = 0.12  # how far apart two readings of one memory may be


def read_bandwidth(threads: int) -> float:
    """Bytes per second that all threads together read from memory."""
    return _native.read_bandwidth(threads, buffer_bytes=256 << 20, seconds=0.2)


def beside_memory(threads: int, ask: Callable[[], float]) -> tuple[float, float]:
    """What `ask` returns, and the read bandwidth around it.

    A virtual machine's memory may change its speed by half from one minute to the next: where it
    did so meanwhile, `ask` is called again, a few times.
    """
    before, after = 0.0, read_bandwidth(threads)
    for _ in range(4):
        before, answer, after = after, ask(), read_bandwidth(threads)
        if abs(after - before) < STEADY * max(before, after):
            break
    return answer, (before + after) / 2


def multiply_peaks(threads: int) -> dict[str, float]:
    """Multiply-adds per second of all threads together, by instruction, operands in registers.

    Raises:
        FileNotFoundError: There is no `g++`.
    """
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "peaks"
        subprocess.run(
            ["g++", "-std=c++20", "-O2", "-pthread", str(SOURCE), "-o", str(program)], check=True
        )
        answer = subprocess.run(
            [str(program), str(threads)], check=True, capture_output=True, text=True
        )
    peaks: dict[str, float] = json.loads(answer.stdout)
    return peaks
