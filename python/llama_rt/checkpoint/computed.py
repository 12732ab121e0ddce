"""Tensors that are computed when they are read: sums of others, merged adapters, older layouts.

Rows are made a few at a time on all threads; only the result and those rows are held.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llama_rt.errors import CheckpointError
from llama_rt.formats.dtypes import stored_bytes
from llama_rt.formats.records import TensorRecord

__all__ = [
    "Computed",
    "Floats",
    "MakeRows",
    "Order",
    "computed_record",
    "stored_rows",
    "to_half_split",
    "to_interleaved",
]

Order = npt.NDArray[np.int64]
"""For each row of the result, the row that it is taken from."""
Floats = npt.NDArray[np.float32]
MakeRows = Callable[[int, int], Floats]
"""Rows `[start, stop)` as float32 `[stop - start, width]`."""

_CHUNK_ELEMENTS = 1 << 20  # of each thread, 4 MiB as float32
_F16_MAX = 65504.0


@dataclass(frozen=True, slots=True)
class Computed:
    """A source whose bytes are made by a function.

    Attributes:
        name: of the tensor, for errors.
        file: named in errors.
        dtype: of the result.
        shape: of the result; a vector counts as one row.
        prepare: opens what the rows are made from; what it holds is dropped with its result.
    """

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    prepare: Callable[[], MakeRows] = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Length of what `read` gives."""
        return stored_bytes(self.dtype, self.shape, what=self.name, file=self.file)

    def read(self) -> npt.NDArray[np.uint8]:
        """Makes all rows, each rounded once to the result's type.

        Raises:
            CheckpointError: a number is not finite, or too large for the type.
        """
        from llama_rt import _native

        rows, width = self.shape if len(self.shape) == 2 else (1, self.shape[0])
        out = np.empty((rows, self.nbytes // rows), np.uint8)
        make = self.prepare()
        step = max(1, _CHUNK_ELEMENTS // max(1, width))

        def fill(start: int) -> None:
            stop = min(start + step, rows)
            with np.errstate(over="ignore", invalid="ignore"):  # the check says what came of it
                values = np.ascontiguousarray(make(start, stop), np.float32)
            self._check(values)
            if self.dtype == "f32":
                encoded = values.view(np.uint8)
            else:
                encoded = _native.encode(values, self.dtype)
            out[start:stop] = encoded.reshape(stop - start, -1)

        with ThreadPoolExecutor(_native.cpu_info().default_threads) as pool:
            list(pool.map(fill, range(0, rows, step)))
        return out.reshape(-1)

    def _check(self, values: Floats) -> None:
        peak = float(np.abs(values).max(initial=0.0))
        if not np.isfinite(peak) or (self.dtype == "f16" and peak > _F16_MAX):
            msg = f"{self.file}: {self.name!r} comes to {peak:g}, which {self.dtype} cannot hold"
            raise CheckpointError(msg)


def computed_record(
    name: str, file: Path, dtype: str, shape: tuple[int, ...], prepare: Callable[[], MakeRows]
) -> TensorRecord:
    """A record over a computed source."""
    return TensorRecord(name, dtype, shape, file, Computed(name, file, dtype, shape, prepare))


def stored_rows(record: TensorRecord, order: Order | None = None) -> MakeRows:
    """Rows of a stored tensor as float32; `order` says where each is taken from.

    The record is read once, now; a vector is one row unless it has an order.
    """
    from llama_rt import _native

    vector = len(record.shape) == 1
    rows, width = (1, record.shape[0]) if vector else record.shape
    data = record.read().reshape(rows, -1)

    def make(start: int, stop: int) -> Floats:
        piece = data[start:stop] if vector or order is None else data[order[start:stop]]
        flat = np.ascontiguousarray(piece).reshape(-1)
        values = _native.decode(flat.data, record.dtype, (stop - start) * width)
        if vector and order is not None:
            values = values[order]
        return values.reshape(stop - start, width)

    return make


def to_interleaved(heads: int, head_dim: int) -> Order:
    """Rows of q or k for adjacent rotary pairs, taken from Hugging Face's half-split order.

    Row `(head, 2i + r)` takes row `(head, r * head_dim/2 + i)`.
    """
    rows = np.arange(heads * head_dim).reshape(heads, 2, head_dim // 2)
    return np.ascontiguousarray(rows.swapaxes(1, 2)).reshape(-1)


def to_half_split(heads: int, head_dim: int) -> Order:
    """The inverse of `to_interleaved`."""
    rows = np.arange(heads * head_dim).reshape(heads, head_dim // 2, 2)
    return np.ascontiguousarray(rows.swapaxes(1, 2)).reshape(-1)
