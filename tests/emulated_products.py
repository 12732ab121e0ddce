"""Products of packed and stored weights on the emulated device: numpy in and out."""

import ctypes
from dataclasses import dataclass

import numpy as np

from emulated_device import library

KERNELS = ("stored", "matvec", "gemm_mma", "gemm_wgmma")
EPILOGUES = ("store", "add", "swiglu")
DTYPES = (
    *("f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1"),
    *("q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k"),
)
SOURCES = [
    *(
        f"csrc/cuda/kernels/{name}.cu"
        for name in ("dequantized_matmul", "matmul", "pack", "quantize_activations")
    ),
    *(f"csrc/cuda/kernels/{name}.cu" for name in ("gemv", "gemm_mma", "gemm_wgmma")),
    "csrc/cuda/kernels/kv_append.cu",
    "tests/cuda/products.cu",
]
KV_TYPES = ("f32", "f16", "bf16", "q8_0")
PAGE = 64
_floats = ctypes.POINTER(ctypes.c_float)
_ints = ctypes.POINTER(ctypes.c_int32)
_bytes = ctypes.POINTER(ctypes.c_uint8)


class _Append(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("type", "halves", "apart")),
        *((name, ctypes.c_int64) for name in ("kv_heads", "e", "page_bytes")),
        *((name, ctypes.c_int64) for name in ("page_count", "page_stride")),
        *((name, _ints) for name in ("positions", "segment_of", "first_row", "pages")),
        ("segments", ctypes.c_int64),
        ("cos", _floats),
        ("sin", _floats),
        ("cache", _bytes),
    )


class _Request(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("kernel", "dtype", "jobs", "epilogue")),
        ("reproducible", ctypes.c_int32),
        *((name, ctypes.c_int64) for name in ("n", "k", "row_bytes")),
        ("eps", ctypes.c_float),
        ("x", _floats),
        ("gain", _floats),
        ("rows", ctypes.c_int64 * 3),
        ("weight", ctypes.POINTER(ctypes.c_uint8) * 3),
        ("bias", _floats * 3),
        ("out", _floats * 3),
        ("append", ctypes.POINTER(_Append)),
    )


@dataclass
class Cache:
    """Where products of q, k and v go: rows `positions` of sequences, whose pages lie in any order.

    `apart`: by a launch of their own, after the products. `data` is what the cache then holds.
    """

    kv_dtype: str
    e: int
    kv_heads: int
    spans: list[tuple[int, int]]  # first position and rows of each sequence
    halves: bool = False
    apart: bool = False
    data: np.ndarray | None = None

    def request(self):
        n = sum(count for _, count in self.spans)
        held = [-(-(first + count) // PAGE) for first, count in self.spans]
        order = np.random.default_rng(1).permutation(sum(held)).astype(np.int32)
        self.pages = np.full((len(held), max(held)), -1, np.int32)
        for i, count in enumerate(held):
            self.pages[i, :count] = order[sum(held[:i]) :][:count]
        self.positions = np.concatenate([np.arange(p, p + c) for p, c in self.spans]).astype("i4")
        counts = [count for _, count in self.spans]
        self.segment_of = np.repeat(np.arange(len(counts)), counts).astype("i4")
        self.first_row = np.concatenate([[0], np.cumsum(counts)]).astype("i4")
        angles = np.random.default_rng(2).uniform(0, 6, (n, self.e // 2))
        self.cos, self.sin = np.cos(angles).astype("f4"), np.sin(angles).astype("f4")
        bytes_of = {"f32": 4, "f16": 2, "bf16": 2}[self.kv_dtype]
        head = 2 * PAGE * self.e * bytes_of
        self.data = np.full((sum(held), self.kv_heads, head), 0xFF, np.uint8)
        return _Append(
            *(KV_TYPES.index(self.kv_dtype), self.halves, self.apart, self.kv_heads, self.e),
            *(self.kv_heads * head, sum(held), max(held), _pointer(self.positions, _ints)),
            *(_pointer(a, _ints) for a in (self.segment_of, self.first_row, self.pages)),
            *(len(held), _pointer(self.cos), _pointer(self.sin), _pointer(self.data, _bytes)),
        )


def _pointer(a, kind=_floats):
    return kind() if a is None else a.ctypes.data_as(kind)


def multiply(
    kernel,
    dtype,
    x,
    weights,
    *,
    out=None,
    bias=None,
    gain=None,
    eps=1e-5,
    swiglu=False,
    reproducible=False,
    cache=None,
):
    """Products of `x` `[n, k]` f32 with each of `weights` (stored rows, `uint8` `[rows, bytes]`).

    Args:
        kernel: one of KERNELS.
        out: what to add to, a list of `[n, rows]`; None: results are stored.
        bias: a list of `[rows]` or None each.
        swiglu: the two weights are gate and up, and the first result is silu(gate) * up.
        cache: a Cache that the three weights' results go to; the first is then rotated.

    Returns:
        A list of `[n, rows]` f32.
    """  # fmt: skip
    loaded = library("products", *SOURCES)
    loaded.multiply.restype = ctypes.c_char_p
    n, k = x.shape
    bias = bias or [None] * len(weights)
    x = np.ascontiguousarray(x, np.float32)
    results = [
        np.full((n, len(w)), np.nan, np.float32) if out is None else out[i].astype(np.float32)
        for i, w in enumerate(weights)
    ]
    request = _Request(
        kernel=KERNELS.index(kernel), dtype=DTYPES.index(dtype), jobs=len(weights),
        epilogue=2 if swiglu else 0 if out is None else 1, reproducible=int(reproducible),
        n=n, k=k, row_bytes=weights[0].shape[1], eps=eps, x=_pointer(x), gain=_pointer(gain),
    )  # fmt: skip
    for i, weight in enumerate(weights):
        request.rows[i] = len(weight)
        request.weight[i] = _pointer(weight, ctypes.POINTER(ctypes.c_uint8))
        request.bias[i] = _pointer(bias[i])
        request.out[i] = _pointer(results[i])
    append = cache.request() if cache else None
    if append:
        request.append = ctypes.pointer(append)
    fault = loaded.multiply(ctypes.byref(request))
    if fault:
        raise RuntimeError(fault.decode())
    return results
