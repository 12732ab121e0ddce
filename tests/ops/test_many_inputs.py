"""Products of many inputs at once, where a backend may take other kernels than for a few."""

import numpy as np
import pytest

from llama_rt import _native
from reference.blocks import decode, random_bytes
from reference.bounds import matmul as bound

DTYPES = [row.name for row in _native.dtypes()]
COUNTS = [8, 15, 16, 17, 32, 33, 257, 300]


@pytest.fixture(params=DTYPES)
def task(request):
    dtype, rows, k = request.param, 443, 1280
    data = random_bytes(dtype, rows, k, seed=2)
    w = decode(data, dtype).reshape(rows, k)
    x = np.random.default_rng(3).standard_normal((max(COUNTS), k)).astype(np.float32)
    return dtype, data, x, x.astype(np.float64) @ w.astype(np.float64).T, bound(x, w, dtype)


def test_within_bounds(opened, level, task):
    dtype, data, x, y, allowed = task
    for n in COUNTS:
        got = _native.op_matmul(opened(level, 2, False), x[:n], data, dtype, len(data))
        assert (np.abs(got - y[:n]) <= allowed[:n]).all(), n


def test_threads_do_not_change_bits(opened, level, task):
    dtype, data, x, _, _ = task
    one, two, three = (
        _native.op_matmul(opened(level, t, False), x[:40], data, dtype, len(data))
        for t in (1, 2, 3)
    )
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, three)


def test_reproducible_means_that_company_does_not_change_bits(opened, level, task):
    dtype, data, x, _, _ = task
    full = _native.op_matmul(opened(level), x[:40], data, dtype, len(data))
    for n in (1, 8, 17):
        got = _native.op_matmul(opened(level), x[:n], data, dtype, len(data))
        np.testing.assert_array_equal(got, full[:n])
