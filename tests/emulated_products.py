"""Products of packed and stored weights on the emulated device: numpy in and out."""

import ctypes

import numpy as np

from emulated_device import library

KERNELS = ("stored", "matvec", "gemm_mma", "gemm_wgmma")
EPILOGUES = ("store", "add", "swiglu")
DTYPES = (
    *("f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1"),
    *("q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k"),
)
SOURCES = [
    *(f"csrc/cuda/kernels/{name}.cu" for name in ("stored", "products", "pack", "inputs")),
    *(f"csrc/cuda/kernels/{name}.cu" for name in ("matvec", "gemm_mma", "gemm_wgmma")),
    "tests/cuda/products.cu",
]
_floats = ctypes.POINTER(ctypes.c_float)


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
):
    """Products of `x` `[n, k]` f32 with each of `weights` (stored rows, `uint8` `[rows, bytes]`).

    Args:
        kernel: one of KERNELS.
        out: what to add to, a list of `[n, rows]`; None: results are stored.
        bias: a list of `[rows]` or None each.
        swiglu: the two weights are gate and up, and the first result is silu(gate) * up.

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
    fault = loaded.multiply(ctypes.byref(request))
    if fault:
        raise RuntimeError(fault.decode())
    return results
