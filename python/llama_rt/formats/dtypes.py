"""Element and block types as files name them: block length, block bytes, GGUF number.

The arithmetic of each type lives in the native module; readers need only its sizes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from llama_rt.errors import CheckpointError

__all__ = ["GGUF_NAMES", "STORED", "DType", "dtype_named", "stored_bytes"]


@dataclass(frozen=True, slots=True)
class DType:
    """One stored type.

    Attributes:
        name: lower case, as in llama.cpp.
        block_elements: elements that share one block.
        block_bytes: bytes of a block.
        gguf_id: type number in GGUF, or -1.
        file_type: `general.file_type` of a file that consists mostly of it, or -1.
        runs: the runtime computes with it; the others are known so that they can be named.
        written: it can be produced from floats.
    """

    name: str
    block_elements: int
    block_bytes: int
    gguf_id: int = -1
    file_type: int = -1
    runs: bool = True
    written: bool = True


# Sizes: ggml `ggml-common.h`; file types: llama.cpp `llama.h`.
_TYPES = (
    DType("f32", 1, 4, 0, 0),
    DType("f16", 1, 2, 1, 1),
    DType("bf16", 1, 2, 30, 32),
    DType("q4_0", 32, 18, 2, 2),
    DType("q4_1", 32, 20, 3, 3),
    DType("q5_0", 32, 22, 6, 8),
    DType("q5_1", 32, 24, 7, 9),
    DType("q8_0", 32, 34, 8, 7),
    DType("q2_k", 256, 84, 10, 10),
    DType("q3_k", 256, 110, 11, 11),
    DType("q4_k", 256, 144, 12, 14),
    DType("q5_k", 256, 176, 13, 16),
    DType("q6_k", 256, 210, 14, 18),
    DType("q8_1", 32, 36, 9, written=False),
    DType("q8_k", 256, 292, 15, written=False),
    DType("iq1_s", 256, 50, 19, 24, written=False),
    DType("iq1_m", 256, 56, 29, 31, written=False),
    DType("iq2_xxs", 256, 66, 16, 19, written=False),
    DType("iq2_xs", 256, 74, 17, 20, written=False),
    DType("iq2_s", 256, 82, 22, 28, written=False),
    DType("iq3_xxs", 256, 98, 18, 23, written=False),
    DType("iq3_s", 256, 110, 21, 26, written=False),
    DType("iq4_nl", 32, 18, 20, 25),
    DType("iq4_xs", 256, 136, 23, 30),
    DType("tq1_0", 256, 54, 34, 36, written=False),
    DType("tq2_0", 256, 66, 35, 37, written=False),
    DType("mxfp4", 32, 17, 39, 38, written=False),
    DType("f64", 1, 8, 28, runs=False),
    DType("i64", 1, 8, 27, runs=False),
    DType("i32", 1, 4, 26, runs=False),
    DType("i16", 1, 2, 25, runs=False),
    DType("i8", 1, 1, 24, runs=False),
    DType("u64", 1, 8, runs=False),
    DType("u32", 1, 4, runs=False),
    DType("u16", 1, 2, runs=False),
    DType("u8", 1, 1, runs=False),
    DType("bool", 1, 1, runs=False),
    DType("f8_e4m3", 1, 1, runs=False),
    DType("f8_e5m2", 1, 1, runs=False),
)

STORED = {dtype.name: dtype for dtype in _TYPES}

# Types of GGUF that are known by name only: their block sizes are never needed.
GGUF_NAMES = {dtype.gguf_id: dtype.name for dtype in _TYPES if dtype.gguf_id >= 0} | {
    40: "nvfp4", 41: "q1_0", 42: "q2_0",
}  # fmt: skip


def dtype_named(name: str) -> DType:
    """The row of a type name that a reader or the synthetic maker uses.

    Raises:
        CheckpointError: no such type.
    """
    try:
        return STORED[name]
    except KeyError:
        runs = ", ".join(dtype.name for dtype in _TYPES if dtype.runs)
        msg = f"unknown tensor type {name!r}; supported: {runs}"
        raise CheckpointError(msg) from None


def stored_bytes(dtype: str, shape: tuple[int, ...], *, what: str, file: Path) -> int:
    """Bytes of a tensor `shape` (torch order, rows last) of `dtype`.

    Raises:
        CheckpointError: a negative size, or rows that are not a whole number of blocks.
    """
    row = dtype_named(dtype)
    if any(size < 0 for size in shape):
        msg = f"{file}: tensor {what!r} has a negative size in {list(shape)}"
        raise CheckpointError(msg)
    width = shape[-1] if shape else 1
    if width % row.block_elements:
        msg = (
            f"{file}: tensor {what!r} of type {dtype} has rows of {width} elements, "
            f"not a multiple of its block of {row.block_elements}"
        )
        raise CheckpointError(msg)
    return math.prod(shape) // row.block_elements * row.block_bytes
