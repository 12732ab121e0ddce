"""Whole numbers of a few bits, packed one after the other from the lowest bit of a row on."""

from __future__ import annotations

import numpy as np

from llama_rt.checkpoint.quantized.parts import Bytes, Whole

__all__ = ["packed_along_columns", "row_bytes", "unpack"]


def unpack(packed: Bytes, bits: int, count: int) -> Bytes:
    """The first `count` numbers of each row.

    Args:
        packed: uint8 `[rows, bytes]`; number i takes bits `[i * bits, (i + 1) * bits)`.
        bits: 1 to 8.
        count: numbers wanted.

    Returns:
        uint8 `[rows, count]`.
    """
    rows, width = packed.shape
    if bits == 8:
        return packed[:, :count]
    if 8 % bits:
        stream = np.unpackbits(packed, axis=1, bitorder="little", count=count * bits)
        places = np.array([1 << i for i in range(bits)], np.uint8)
        numbers: Bytes = (stream.reshape(rows, count, bits) * places).sum(axis=2, dtype=np.uint8)
        return numbers
    each = 8 // bits
    out = np.empty((rows, width, each), np.uint8)
    for i in range(each):
        np.right_shift(packed, i * bits, out=out[:, :, i])
    out &= (1 << bits) - 1
    return out.reshape(rows, -1)[:, :count]


def row_bytes(words: Whole) -> Bytes:
    """Rows of 32-bit words as bytes, lowest first: `[rows, 4 * words]`."""
    return np.ascontiguousarray(words, "<i4").view(np.uint8)


def packed_along_columns(words: Whole, start: int, stop: int) -> Bytes:
    """Columns `[start, stop)` of words `[words, columns]`, a row of bytes for each."""
    return row_bytes(words[:, start:stop].T)
