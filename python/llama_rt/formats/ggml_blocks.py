"""Block layouts of 2023 as today's, when they are read.

Sources: ggml.c of alpaca.cpp and gpt4all.cpp (March 2023), llama.cpp of April and May 2023. Two
things changed since: a byte held two adjacent elements (today elements i and i + 16), and scales
were float32 (today half). Scales are rounded to the nearest half, which moves a weight by at most
one part in 2048, less than any arithmetic here resolves; everything else is kept exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from llama_rt.errors import CheckpointError
from llama_rt.formats.records import Source

__all__ = ["BLOCK", "Layout", "OldBlocks", "layout_of", "looks_like_rows"]

Bytes = npt.NDArray[np.uint8]
Singles = npt.NDArray[np.float32]

BLOCK = 32  # elements
_F16_MAX = 65504.0
_MAX_CHECKED = 1 << 14  # blocks


@dataclass(frozen=True, slots=True)
class Layout:
    """One type in one generation of files.

    Attributes:
        dtype: today's name.
        old_bytes: bytes of a block in the file.
        new_bytes: bytes of a block today.
        scales: float32 numbers in front of the nibbles: 0 where they are half, as today.
        adjacent: a byte holds two adjacent elements.
        rows: all scales of a row come first (then they are gathered from there).
        minimum_first: the minimum is stored before the scale.
    """

    dtype: str
    old_bytes: int
    new_bytes: int
    scales: int
    adjacent: bool
    rows: bool = False
    minimum_first: bool = False


_Generation = Literal["ggml", "ggmf", "ggjt1", "ggjt2", "ggjt3"]


def layout_of(dtype: str, generation: _Generation) -> Layout | None:
    """How a type is laid out in a generation of files; None if as today."""
    if generation == "ggjt3" or dtype in ("f32", "f16"):
        return None
    adjacent = generation != "ggjt2"
    if dtype == "q4_0":
        return Layout(dtype, 20, 18, 1, adjacent)
    if dtype == "q4_1":
        unversioned = generation == "ggml"
        return Layout(dtype, 24, 20, 2, adjacent, rows=unversioned, minimum_first=unversioned)
    if dtype == "q8_0":
        return Layout(dtype, 36, 34, 1, adjacent=False)
    if not adjacent:
        return None
    return Layout(dtype, *((22, 22) if dtype == "q5_0" else (24, 24)), 0, adjacent)


@dataclass(frozen=True, slots=True)
class OldBlocks:
    """A matrix in an old layout; reads as today's.

    Attributes:
        source: the stored bytes.
        rows: of the matrix as stored (of the slice, in a file of several parts).
        layout: the layout of its blocks.
        file: named in errors.
        name: of the tensor, for errors.
    """

    source: Source = field(repr=False)
    rows: int
    layout: Layout
    file: Path
    name: str

    @property
    def nbytes(self) -> int:
        """Length of what `read` gives."""
        return self.source.nbytes // self.layout.old_bytes * self.layout.new_bytes

    def read(self) -> Bytes:
        """Today's blocks.

        Raises:
            CheckpointError: a scale is not finite, or too large for half precision.
        """
        layout = self.layout
        raw = self.source.read()
        scales, rest = _split(raw, self.rows, layout)
        out = np.empty((len(rest), layout.new_bytes), np.uint8)
        if layout.scales:
            halves = self._halves(scales)
            at = 2 * layout.scales
            out[:, :at] = halves.view(np.uint8).reshape(-1, at)
            out[:, at:] = _split_nibbles(rest) if layout.adjacent else rest
        else:  # half scales and high bits as today; only the nibbles move
            out[:, :-16] = rest[:, :-16]
            out[:, -16:] = _split_nibbles(rest[:, -16:])
        return out.reshape(-1)

    def _halves(self, scales: Singles) -> npt.NDArray[np.float16]:
        peak = float(np.abs(scales).max(initial=0.0))
        if not peak <= _F16_MAX:
            msg = (
                f"{self.file}: tensor {self.name!r} has a block with scale {peak:g}: the file is "
                "damaged, or of another layout"
            )
            raise CheckpointError(msg)
        return np.ascontiguousarray(scales.astype("<f2"))


def _split(raw: Bytes, rows: int, layout: Layout) -> tuple[Singles, Bytes]:
    """Scales float32 `[blocks, scales]` in the order (scale, minimum), and what follows them."""
    if layout.rows:
        lines = raw.reshape(rows, -1)
        blocks = lines.shape[1] // layout.old_bytes
        at = 4 * blocks * layout.scales
        singles = np.ascontiguousarray(lines[:, :at]).view("<f4").reshape(rows, layout.scales, -1)
        scales = singles.swapaxes(1, 2).reshape(-1, layout.scales)
        rest = lines[:, at:].reshape(rows * blocks, -1)
    else:
        lines = raw.reshape(-1, layout.old_bytes)
        at = 4 * layout.scales
        scales = np.ascontiguousarray(lines[:, :at]).view("<f4")
        rest = lines[:, at:]
    return scales[:, ::-1] if layout.minimum_first else scales, rest


def _split_nibbles(nibbles: Bytes) -> Bytes:
    """Bytes of adjacent pairs as bytes of elements i and i + 16: `[blocks, 16]`."""
    elements = np.stack([nibbles & 15, nibbles >> 4], axis=2).reshape(len(nibbles), BLOCK)
    halves: Bytes = elements[:, :16] | (elements[:, 16:] << 4)
    return halves


def looks_like_rows(read: Callable[[], Bytes], rows: int, layout: Layout) -> bool | None:
    """Whether a matrix has its scales row by row (before 2023-03-11) rather than block by block.

    Scales are small numbers, while nibbles read as float32 are of any size: in one of the two
    readings all scales are plausible. None if that does not decide.
    """
    raw = read()
    row_bytes = len(raw) // rows
    some = max(1, min(rows, _MAX_CHECKED * layout.old_bytes // row_bytes))
    part = raw[: some * row_bytes]
    by_row = _plausible(part, some, layout, rows_first=True)
    by_block = _plausible(part, some, layout, rows_first=False)
    return None if by_row == by_block else by_row


def _plausible(raw: Bytes, rows: int, layout: Layout, *, rows_first: bool) -> bool:
    other = Layout(
        layout.dtype, layout.old_bytes, layout.new_bytes, layout.scales, True, rows=rows_first
    )
    scales = np.abs(_split(raw, rows, other)[0])
    return bool(np.all((scales == 0) | ((scales > 1e-20) & (scales < 1e4))))
