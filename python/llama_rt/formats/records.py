"""Tensors as records over mapped files: what every reader of a container gives.

A record knows where its bytes are and how to bring them into one piece; nothing is read before
`read()` is called. All bounds are checked when a record is made.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from llama_rt.errors import CheckpointError
from llama_rt.formats.dtypes import stored_bytes
from llama_rt.formats.mapping import MappedFile

__all__ = [
    "MAX_ITEMS",
    "BlockPool",
    "Columns",
    "Rows",
    "Slice",
    "Source",
    "Stack",
    "Strided",
    "TensorRecord",
    "check_count",
    "make_record",
]

_LONGEST_NAME = 400
MAX_ITEMS = 2**16  # tensors of a file; fifty times as many as the largest model has


class Source(Protocol):
    """Where a tensor's bytes come from."""

    @property
    def nbytes(self) -> int:
        """Length of what `read` gives."""

    def read(self) -> npt.NDArray[np.uint8]:
        """The tensor's bytes, contiguous, row-major: a view where possible."""


@runtime_checkable
class BlockPool(Protocol):
    """A source whose bytes are runs of blocks of a shared pool."""

    def pieces(self) -> tuple[npt.NDArray[np.uint8], list[int]]:
        """The pool, and the blocks of it at which the runs begin; each goes to the pool's end."""


@dataclass(frozen=True, slots=True)
class Slice:
    """A run of bytes in a file, used in place."""

    file: MappedFile
    offset: int
    nbytes: int
    what: str

    def __post_init__(self) -> None:
        """Checks the run against the file's size."""
        self.file.check(self.offset, self.nbytes, self.what)

    def read(self) -> npt.NDArray[np.uint8]:
        """The bytes in place."""
        return self.file.view(self.offset, self.nbytes, self.what)


@dataclass(frozen=True, slots=True)
class Strided:
    """A view of a storage that is not contiguous; strides and offset in elements."""

    storage: Slice
    itemsize: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Length of the gathered bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.itemsize

    def read(self) -> npt.NDArray[np.uint8]:
        """A gathered copy."""
        raw = self.storage.read()
        usable = len(raw) // self.itemsize * self.itemsize
        items = raw[:usable].view(np.dtype((np.void, self.itemsize)))[self.offset :]
        steps = [stride * self.itemsize for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(items, self.shape, steps, writeable=False)
        return np.ascontiguousarray(view).reshape(-1).view(np.uint8)


@dataclass(frozen=True, slots=True)
class Stack:
    """Row shards: parts one below the other."""

    parts: tuple[Source, ...]

    @property
    def nbytes(self) -> int:
        """Length of all parts."""
        return sum(part.nbytes for part in self.parts)

    def read(self) -> npt.NDArray[np.uint8]:
        """A merged copy."""
        out = np.empty(self.nbytes, np.uint8)
        start = 0
        for part in self.parts:
            out[start : start + part.nbytes] = part.read()
            start += part.nbytes
        return out


@dataclass(frozen=True, slots=True)
class Columns:
    """Column shards: parts side by side, `rows` rows each."""

    parts: tuple[Source, ...]
    rows: int

    @property
    def nbytes(self) -> int:
        """Length of all parts."""
        return sum(part.nbytes for part in self.parts)

    def read(self) -> npt.NDArray[np.uint8]:
        """A merged copy."""
        out = np.empty((self.rows, self.nbytes // self.rows), np.uint8)
        start = 0
        for part in self.parts:
            width = part.nbytes // self.rows
            out[:, start : start + width] = part.read().reshape(self.rows, width)
            start += width
        return out.reshape(-1)


@dataclass(frozen=True, slots=True)
class Rows:
    """A run of rows of another source: one projection of a fused matrix."""

    whole: Source
    start: int
    nbytes: int

    def read(self) -> npt.NDArray[np.uint8]:
        """The rows, in place where the whole is."""
        return self.whole.read()[self.start : self.start + self.nbytes]


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """One tensor of a checkpoint.

    Attributes:
        name: canonical (Meta's) name once a `Checkpoint` holds it; the file's own name before.
        dtype: stored type, e.g. `"f16"`, `"q4_k"`.
        shape: torch order, `[out, in]`, row-major.
        file: the (first) file that holds it.
        source: where the bytes come from.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    source: Source = field(repr=False, compare=False)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor as stored."""
        return self.source.nbytes

    def read(self) -> npt.NDArray[np.uint8]:
        """The stored bytes, uint8 `[nbytes]`, contiguous.

        A read-only view of the mapped file where the tensor is in one piece, else a merged copy;
        memory goes when the array is dropped.
        """
        return self.source.read()

    def rows(self, start: int, stop: int, name: str) -> TensorRecord:
        """Rows `start` to `stop` as a tensor of their own."""
        width = self.nbytes // self.shape[0]
        source = Rows(self.source, start * width, (stop - start) * width)
        return TensorRecord(name, self.dtype, (stop - start, *self.shape[1:]), self.file, source)


def check_count(file: Path, count: int, what: str = "tensors") -> None:
    """Refuses numbers that no model has: a record takes far more than its entry in a file.

    Raises:
        CheckpointError: there are more than `MAX_ITEMS`.
    """
    if count > MAX_ITEMS:
        msg = f"{file}: {count} {what}; at most {MAX_ITEMS} are read"
        raise CheckpointError(msg)


def make_record(
    name: str, dtype: str, shape: tuple[int, ...], file: Path, source: Source
) -> TensorRecord:
    """A record whose byte count has been checked against its shape.

    Raises:
        CheckpointError: the shape asks for another number of bytes than are there, or the name is
            longer than any, so that no message about it could be read.
    """
    if len(name) > _LONGEST_NAME:
        msg = f"{file}: a tensor name of {len(name)} characters: {name[:80]!r}..."
        raise CheckpointError(msg)
    expected = stored_bytes(dtype, shape, what=name, file=file)
    if expected != source.nbytes:
        msg = (
            f"{file}: tensor {name!r} of type {dtype} and shape {list(shape)} needs {expected} "
            f"bytes, but {source.nbytes} are stored"
        )
        raise CheckpointError(msg)
    return TensorRecord(name, dtype, shape, file, source)
