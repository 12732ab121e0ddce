"""Products on the emulated device against float64 numpy, for every kernel and dtype."""

import numpy as np
import pytest

from emulated_products import DTYPES, multiply
from reference import bounds
from reference.blocks import FORMATS, decode, random_bytes

PACKED = ("f16", "bf16", "q8_0", "q4_0", "q4_k", "q6_k")
FAST = ("matvec", "gemm_mma", "gemm_wgmma")


def case(dtype, n, k, rows, seed=0):
    """Inputs, stored rows of each matrix, and their values in float64."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, k)).astype(np.float32)
    stored, values = [], []
    for r in rows:
        rows_bytes = random_bytes(dtype, r, k, int(rng.integers(1 << 30)))
        stored.append(np.ascontiguousarray(rows_bytes.reshape(r, -1)))
        values.append(decode(stored[-1], dtype).reshape(r, k).astype(np.float64))
    return x, stored, values


def allowed(kernel, dtype, x, w):
    """What a product may be off by: the stored form is float32 throughout."""
    return bounds.matmul(x, w, "f32" if kernel == "stored" else dtype)


def check(kernel, dtype, n, k, rows, **options):
    x, stored, values = case(dtype, n, k, rows)
    got = multiply(kernel, dtype, x, stored, **options)
    for result, w in zip(got, values, strict=True):
        error = np.abs(result - x.astype(np.float64) @ w.T)
        assert (error <= allowed(kernel, dtype, x, w)).all()
    return got


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 9])
def test_any_dtype_as_stored(dtype, n):
    elements = FORMATS[dtype].elements
    check("stored", dtype, n, 3 * elements if elements > 1 else 67, [21, 2])


@pytest.mark.parametrize("dtype", PACKED)
@pytest.mark.parametrize("kernel", FAST)
@pytest.mark.parametrize("n", [1, 3, 8])
def test_few_inputs(kernel, dtype, n):
    elements = FORMATS[dtype].elements
    check(kernel, dtype, n, 5 * elements if elements > 1 else 150, [70])
