"""What the machine itself can do: bytes per second from memory, multiply-adds per second."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

from llama_rt import _native

SOURCE = Path(__file__).with_name("peaks.cpp")


def read_bandwidth(threads: int) -> float:
    """Bytes per second that all threads together read from memory."""
    return _native.read_bandwidth(threads, seconds=0.5)


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
