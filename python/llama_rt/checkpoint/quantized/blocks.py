"""Whole numbers with a scale for each group, as the runtime's blocks.

GPTQ, AWQ and the others store `w = scale * (q - zero)`: whole numbers q of a few bits, and a scale
(and a zero point) for each group of neighbours in a row. A block of 32 that has the range of
`q - zero` holds exactly that, with the group's scale in each of its blocks: Q4_0 is -8 to 7, Q5_0
-16 to 15, Q8_0 -128 to 127. Where no block does (groups that are no multiple of 32, columns sorted
by activation, 8 bits with a zero point), weights are decoded and rounded to halves.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llama_rt.checkpoint.computed import computed_record
from llama_rt.checkpoint.quantized.parts import Bytes, Floats, Whole
from llama_rt.errors import CheckpointError
from llama_rt.formats.dtypes import stored_bytes
from llama_rt.formats.records import TensorRecord

__all__ = ["HALVES", "Decoded", "Groups", "MakeGroups", "centred", "grouped"]

BLOCK = 32  # elements
_CHUNK_ELEMENTS = 1 << 18  # of each thread
_F16_MAX = 65504.0
_SIGNED = (("q4_0", -8, 7), ("q5_0", -16, 15), ("q8_0", -128, 127))

HALVES = "decoded, each weight rounded to the nearest half"
_LOSS = {
    "f16": "the same values",
    "bf16": "the same values; scales below 2^-17 rounded to the nearest half",
    "f32": "the same integers, scales rounded to the nearest half",
}


@dataclass(frozen=True, slots=True)
class Groups:
    """Some rows of a matrix: `w = scale * number + minimum`.

    Attributes:
        numbers: int16 or int8 `[rows, width]`.
        scales: float32 `[rows, groups]`.
        minima: float32 `[rows, groups]`, or None for 0.
    """

    numbers: npt.NDArray[np.int16] | npt.NDArray[np.int8]
    scales: Floats
    minima: Floats | None = None


Numbers: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.int8] | npt.NDArray[np.int16]
MakeGroups: TypeAlias = Callable[[int, int], Groups]
"""Rows `[start, stop)`."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A matrix as this runtime has it, and what that loses."""

    record: TensorRecord
    loss: str


@dataclass(frozen=True, slots=True)
class Blocks:
    """A source whose bytes are blocks made from groups when they are read."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, int]
    group: int
    prepare: Callable[[], MakeGroups] = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Length of what `read` gives."""
        return stored_bytes(self.dtype, self.shape, what=self.name, file=self.file)

    def read(self) -> Bytes:
        """Makes all blocks, some rows at a time on all threads.

        Raises:
            CheckpointError: a scale is not finite, or beyond a half.
        """
        from llama_rt import _native

        rows, width = self.shape
        out = np.empty((rows, self.nbytes // rows), np.uint8)
        make = self.prepare()
        step = max(BLOCK, _CHUNK_ELEMENTS // width // BLOCK * BLOCK)
        # The group that each block lies in.
        places = np.arange(0, width, BLOCK) // self.group

        def fill(start: int) -> None:
            stop = min(start + step, rows)
            with np.errstate(over="ignore", invalid="ignore"):  # seen when scales are stored
                groups = make(start, stop)
            into = out[start:stop].reshape(stop - start, width // BLOCK, -1)
            at = self._put(groups.scales[:, places], into, 0)
            if groups.minima is not None:
                at = self._put(groups.minima[:, places], into, at)
            _put_numbers(
                self.dtype, groups.numbers.reshape(*into.shape[:2], BLOCK), into[:, :, at:]
            )

        with ThreadPoolExecutor(_native.cpu_info().default_threads) as pool:
            list(pool.map(fill, range(0, rows, step)))
        return out.reshape(-1)

    def _put(self, values: Floats, into: Bytes, at: int) -> int:
        """Halves at byte `at` of each block; the byte after them."""
        peak = float(np.abs(values).max(initial=0.0))
        if not peak <= _F16_MAX:
            msg = f"{self.file}: {self.name!r} has a scale of {peak:g}, which a half cannot hold"
            raise CheckpointError(msg)
        halves = np.ascontiguousarray(values.astype("<f2"))
        into[:, :, at : at + 2] = halves.view(np.uint8).reshape(*values.shape, 2)
        return at + 2


def _put_numbers(dtype: str, numbers: npt.NDArray[np.signedinteger], into: Bytes) -> None:
    """Numbers `[rows, blocks, 32]` as the end of each block (`core/blocks.h`)."""
    if dtype == "q8_0":
        into[...] = numbers.astype(np.int8).view(np.uint8)
        return
    middle = {"q4_0": 8, "q4_1": 0, "q5_0": 16}[dtype]
    codes = (numbers + numbers.dtype.type(middle)).astype(np.uint8)
    if dtype == "q5_0":
        into[:, :, :4] = np.packbits(codes >> 4, axis=2, bitorder="little")
        codes &= 15
    into[:, :, -16:] = codes[:, :, :16] | codes[:, :, 16:] << 4


def centred(
    numbers: Numbers, zeros: Numbers, group: int, order: Whole | None = None
) -> npt.NDArray[np.int16]:
    """`q - zero`.

    Args:
        numbers: `[rows, width]`.
        zeros: of each group, `[rows, groups]`.
        group: columns that share one.
        order: `[width]`, the group of each column, where groups are not neighbours.
    """
    rows, width = numbers.shape
    result = numbers.astype(np.int16)
    zeros = zeros.astype(np.int16)
    if order is None and width % group == 0:
        by_group = result.reshape(rows, -1, group)
        by_group -= zeros[:, :, None]
    else:
        result -= zeros[:, np.arange(width) // group if order is None else order]
    return result


def grouped(
    name: str,
    file: Path,
    shape: tuple[int, int],
    prepare: Callable[[], MakeGroups],
    *,
    limits: tuple[int, int],
    group: int,
    scales: str,
    order: Whole | None = None,
) -> Decoded:
    """The record of a matrix of groups, as blocks if there are some with the same values.

    Args:
        name: of the tensor.
        file: that holds its first part.
        shape: `[out, in]`.
        prepare: opens the parts; what it holds is dropped with the result.
        limits: least and greatest number that the bits allow.
        group: columns that share a scale.
        scales: stored type of the scales.
        order: int32 `[in]`, the group of each column, where groups are not neighbours.
    """
    for dtype, low, high in _SIGNED:
        fits = low <= limits[0] and limits[1] <= high
        if fits and order is None and group % BLOCK == 0 and shape[1] % BLOCK == 0 and shape[0]:
            source = Blocks(name, file, dtype, shape, group, prepare)
            return Decoded(TensorRecord(name, dtype, shape, file, source), _LOSS[scales])
    return Decoded(decoded_groups(name, file, shape, prepare, group=group, order=order), HALVES)


def decoded_groups(
    name: str,
    file: Path,
    shape: tuple[int, int],
    prepare: Callable[[], MakeGroups],
    *,
    group: int,
    order: Whole | None = None,
) -> TensorRecord:
    """The record of a matrix of groups whose weights are multiplied out, as halves."""

    def prepare_rows() -> Callable[[int, int], Floats]:
        make = prepare()
        places = np.arange(shape[1]) // group if order is None else order

        def rows(start: int, stop: int) -> Floats:
            groups = make(start, stop)
            values: Floats = groups.numbers.astype(np.float32)
            values *= groups.scales[:, places]
            if groups.minima is not None:
                values += groups.minima[:, places]
            return values

        return rows

    return computed_record(name, file, "f16", shape, prepare_rows)
