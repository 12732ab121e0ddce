"""Tensors on their way into another file: another type, another row order, chunk by chunk."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from llama_rt.errors import CheckpointError
from llama_rt.loading.checkpoint import TensorRecord
from llama_rt.loading.dtypes import stored_bytes

__all__ = ["Constant", "OutTensor", "Rewritten", "to_halves", "to_interleaved"]

Order = npt.NDArray[np.int64]

_CHUNK_ELEMENTS = 1 << 20  # 4 MiB as float32
_MOST_WORKERS = 8
_F16_MAX = 65504.0


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
        """Torch order."""

    @property
    def nbytes(self) -> int:
        """Bytes in the new file."""

    def chunks(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Its bytes, in order, in pieces of bounded size."""


def to_interleaved(heads: int, head_dim: int) -> Order:
    """Rows of q or k for adjacent rotary pairs, taken from Hugging Face's half-split order.

    Row `(head, 2i + r)` takes row `(head, r * head_dim/2 + i)`.
    """
    rows = np.arange(heads * head_dim).reshape(heads, 2, head_dim // 2)
    return np.ascontiguousarray(rows.swapaxes(1, 2)).reshape(-1)


def to_halves(heads: int, head_dim: int) -> Order:
    """The inverse of `to_interleaved`."""
    rows = np.arange(heads * head_dim).reshape(heads, head_dim // 2, 2)
    return np.ascontiguousarray(rows.swapaxes(1, 2)).reshape(-1)


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A stored tensor under a new name, in a new type, with its rows in a new order."""

    name: str
    dtype: str
    record: TensorRecord
    order: Order | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Unchanged by rewriting."""
        return self.record.shape

    @property
    def nbytes(self) -> int:
        """Bytes in the new type."""
        return stored_bytes(self.dtype, self.shape, what=self.name, file=self.record.file)

    def chunks(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Bytes of a few rows at a time; the native module works on several pieces at once.

        Raises:
            CheckpointError: a number does not fit the new type.
        """
        rows = self.shape[0] if self.shape else 1
        if not rows:
            return
        width = int(np.prod(self.shape[1:], dtype=np.int64))
        data = self.record.read().reshape(rows, -1)
        step = max(1, _CHUNK_ELEMENTS // max(1, width))

        def piece(start: int) -> npt.NDArray[np.uint8]:
            stop = min(start + step, rows)
            chosen = data[start:stop] if self.order is None else data[self.order[start:stop]]
            return self._convert(np.ascontiguousarray(chosen), stop - start, width)

        starts = range(0, rows, step)
        if self.dtype == self.record.dtype or len(starts) == 1:
            yield from map(piece, starts)
            return
        workers = min(_MOST_WORKERS, len(os.sched_getaffinity(0)))
        with ThreadPoolExecutor(workers) as pool:
            waiting: deque[Future[npt.NDArray[np.uint8]]] = deque()
            for start in starts:
                waiting.append(pool.submit(piece, start))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _convert(
        self, piece: npt.NDArray[np.uint8], rows: int, width: int
    ) -> npt.NDArray[np.uint8]:
        if self.dtype == self.record.dtype:
            return piece.reshape(-1)
        from llama_rt import _native

        values = _native.decode(piece.reshape(-1).data, self.record.dtype, rows * width)
        if self.dtype == "f16" and self.record.dtype != "f16":
            self._check_range(values)
        if self.dtype == "f32":
            return values.view(np.uint8)
        # A vector is one row, whatever its pieces.
        shape = (rows, width) if len(self.shape) > 1 else (1, rows * width)
        return _native.encode(values.reshape(shape), self.dtype).reshape(-1)

    def _check_range(self, values: npt.NDArray[np.float32]) -> None:
        peak = float(np.max(np.abs(values), initial=0.0, where=np.isfinite(values)))
        if peak > _F16_MAX:
            msg = (
                f"{self.record.file}: tensor {self.record.name!r} holds {peak:g}, beyond f16's "
                f"{_F16_MAX:g}; use bf16 or f32"
            )
            raise CheckpointError(msg)


@dataclass(frozen=True, slots=True)
class Constant:
    """A small tensor made here."""

    name: str
    values: npt.NDArray[np.float32]

    @property
    def dtype(self) -> str:
        """Always float32."""
        return "f32"

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        return self.values.shape

    @property
    def nbytes(self) -> int:
        """The array's bytes."""
        return self.values.nbytes

    def chunks(self) -> Iterator[npt.NDArray[np.uint8]]:
        """The array's bytes in one piece."""
        yield np.ascontiguousarray(self.values, "<f4").reshape(-1).view(np.uint8)
