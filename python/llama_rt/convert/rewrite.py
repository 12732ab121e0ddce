"""Tensors on their way into another file: another type, another row order, chunk by chunk."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from llama_rt.checkpoint.computed import Order
from llama_rt.errors import CheckpointError
from llama_rt.formats.dtypes import stored_bytes
from llama_rt.formats.records import TensorRecord

__all__ = [
    "Constant",
    "OutTensor",
    "Rewritten",
    "requantize",
    "streamed",
]

Bytes = npt.NDArray[np.uint8]

_CHUNK_ELEMENTS = 1 << 22  # of a piece; 16 MiB as float32
_F16_MAX = 65504.0
_F16_INFINITY = 0x7C00


class OutTensor(Protocol):
    """What a writer needs of a tensor."""

    @property
    def name(self) -> str:
        """Its name in the new file."""

    @property
    def dtype(self) -> str:
        """Its type in the new file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes in torch order, `[out, in]`."""

    @property
    def nbytes(self) -> int:
        """Bytes in the new file."""

    def read(self) -> Bytes:
        """What `chunks` works on."""

    def chunks(self, source: Bytes) -> Iterator[Bytes]:
        """The new bytes, in order, in pieces of bounded size; at least one piece."""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A stored tensor under a new name, in a new type, with its rows in a new order.

    `importance`, float32 `[columns]`: how much an error in each column counts.
    """

    name: str
    dtype: str
    record: TensorRecord
    order: Order | None = None
    importance: npt.NDArray[np.float32] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Unchanged by rewriting."""
        return self.record.shape

    @property
    def nbytes(self) -> int:
        """Bytes in the new type."""
        return stored_bytes(self.dtype, self.shape, what=self.name, file=self.record.file)

    def read(self) -> Bytes:
        """The stored bytes."""
        return self.record.read()

    def chunks(self, source: Bytes) -> Iterator[Bytes]:
        """Some rows at a time, each piece on all threads.

        Raises:
            CheckpointError: a number does not fit the new type.
        """
        rows = self.shape[0] if self.shape else 1
        width = math.prod(self.shape[1:])
        if not rows or not width:
            yield source
            return
        data = source.reshape(rows, -1)
        step = max(1, _CHUNK_ELEMENTS // width)
        for start in range(0, rows, step):
            order = None if self.order is None else self.order[start : start + step]
            if order is None:
                yield self._converted(data[start : start + step], None, width)
            else:
                yield self._converted(data, order, width)

    def _converted(self, data: Bytes, order: Order | None, width: int) -> Bytes:
        if self.dtype == self.record.dtype:
            chosen = data if order is None else data[order]
            return np.ascontiguousarray(chosen).reshape(-1)
        from llama_rt import _native

        flat = data.reshape(-1)
        new = requantize(
            self.record, flat, width, self.dtype, order=order, importance=self.importance
        )
        if self.dtype == "f16" and (new.view(np.uint16) & 0x7FFF == _F16_INFINITY).any():
            self._check_range(_native.decode(flat.data, self.record.dtype, data.shape[0] * width))
        return new

    def _check_range(self, values: npt.NDArray[np.float32]) -> None:
        peak = float(np.max(np.abs(values), initial=0.0, where=np.isfinite(values)))
        if peak > _F16_MAX:
            msg = (
                f"{self.record.file}: tensor {self.record.name!r} holds {peak:g}, beyond f16's "
                f"{_F16_MAX:g}; use bf16 or f32"
            )
            raise CheckpointError(msg)


def requantize(
    record: TensorRecord,
    data: Bytes,
    width: int,
    dtype: str,
    *,
    order: Order | None = None,
    importance: npt.NDArray[np.float32] | None = None,
    threads: int = 0,
) -> Bytes:
    """Rows of a tensor in another type, encoded on all threads.

    Raises:
        CheckpointError: a weight is NaN or infinite and `dtype` is a quantized format.
    """
    from llama_rt import _native

    try:
        return _native.requantize(
            data.data,
            record.dtype,
            width,
            dtype,
            order=order,
            importance=importance,
            threads=threads,
        )
    except CheckpointError as error:
        msg = f"{record.file}: tensor {record.name!r} {error}"
        raise CheckpointError(msg) from None


@dataclass(frozen=True, slots=True)
class Constant:
    """A small tensor made here."""

    name: str
    values: npt.NDArray[np.float32]

    @property
    def dtype(self) -> str:
        """The type of the values, float32."""
        return "f32"

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        return self.values.shape

    @property
    def nbytes(self) -> int:
        """The array's bytes."""
        return self.values.nbytes

    def read(self) -> Bytes:
        """The array's bytes."""
        return np.ascontiguousarray(self.values, "<f4").reshape(-1).view(np.uint8)

    def chunks(self, source: Bytes) -> Iterator[Bytes]:
        """All in one piece."""
        yield source


def streamed(tensors: Sequence[OutTensor]) -> Iterator[tuple[OutTensor, Bytes]]:
    """The chunks of all tensors in order, made ahead of the caller.

    While the caller writes a chunk the next one is encoded, and while a tensor is encoded the next
    one is read; memory holds two tensors' stored bytes at most, and two chunks.
    """

    def made() -> Iterator[tuple[OutTensor, Bytes]]:
        coming = reader.submit(tensors[0].read)
        for i, tensor in enumerate(tensors):
            source = coming.result()
            if i + 1 < len(tensors):
                coming = reader.submit(tensors[i + 1].read)
            for chunk in tensor.chunks(source):
                yield tensor, chunk
            del source

    if not tensors:
        return
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as encoder:
        chunks = made()
        following = encoder.submit(next, chunks, None)
        while (item := following.result()) is not None:
            following = encoder.submit(next, chunks, None)
            yield item
