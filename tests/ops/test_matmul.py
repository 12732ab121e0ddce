"""Matrix products on every level, stored type and packing, against float64 of decoded weights."""

from functools import cache

import numpy as np
import pytest

from llama_rt import _native
from llama_rt.errors import DTypeError, LlamaRtError, ShapeError
from reference.blocks import FORMATS, decode, random_bytes
from reference.bounds import matmul as bound

DTYPES = [row.name for row in _native.dtypes()]
ELEMENTS = [name for name in DTYPES if FORMATS[name].elements == 1]
BLOCKS = [name for name in DTYPES if FORMATS[name].elements > 1]
REPACK = ["never", "always"]
BATCHES = [1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 33, 130]
# One k that is odd for the type, one larger; rows that fill no tile, and some that do.
WIDTHS = {1: [(331, 200), (64, 256), (5, 1), (1, 1031)], 32: [(331, 224), (64, 512), (1, 32)]}
WIDTHS[256] = [(331, 256), (64, 768), (1, 1280)]


def shapes(dtype):
    return WIDTHS[FORMATS[dtype].elements]


@cache
def task(dtype, rows, k):
    """Stored weights, their values, inputs of uneven size, the product and its bound."""
    data = random_bytes(dtype, rows, k, seed=rows + k)
    w = decode(data, dtype).reshape(rows, k)
    rng = np.random.default_rng(k)
    x = rng.standard_normal((max(BATCHES), k)).astype(np.float32)
    x *= np.exp(rng.standard_normal((1, k)) * 0.5).astype(np.float32)
    y = x.astype(np.float64) @ w.astype(np.float64).T
    return data, x, y, bound(x, w, dtype)


def assert_within(got, expected, allowed):
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    excess = np.abs(got - expected) - allowed
    where = np.unravel_index(np.argmax(excess), excess.shape) if excess.size else ()
    assert not (excess > 0).any(), f"off by {excess[where] + allowed[where]} at {where}"
    assert np.isfinite(got).all()


@pytest.mark.parametrize("repack", REPACK)
@pytest.mark.parametrize("dtype", DTYPES)
def test_within_bounds_whatever_the_batch(backend, dtype, repack):
    """Also: a token's bits do not depend on how many others it was computed with."""
    for rows, k in shapes(dtype):
        data, x, y, allowed = task(dtype, rows, k)
        full = _native.op_matmul(backend, x, data, dtype, rows, repack=repack)
        assert_within(full, y, allowed)
        for n in BATCHES[:-1]:
            got = _native.op_matmul(backend, x[:n], data, dtype, rows, repack=repack)
            np.testing.assert_array_equal(got, full[:n], err_msg=f"{n} rows of {rows}x{k}")
        last = _native.op_matmul(backend, x[-1:], data, dtype, rows, repack=repack)
        np.testing.assert_array_equal(last, full[-1:])


@pytest.mark.parametrize("repack", REPACK)
@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_do_not_change_bits(opened, level, dtype, repack):
    rows, k = shapes(dtype)[0]
    data, x, _, _ = task(dtype, rows, k)
    for n in (1, 5, 33):
        one, two, three = (
            _native.op_matmul(opened(level, t), x[:n], data, dtype, rows, repack=repack)
            for t in (1, 2, 3)
        )
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "q4_0", "q6_k"])
def test_bias_is_added(backend, dtype):
    rows, k = shapes(dtype)[0]
    data, x, y, allowed = task(dtype, rows, k)
    bias = np.random.default_rng(1).standard_normal(rows).astype(np.float32)
    for n in (1, 7):
        got = _native.op_matmul(backend, x[:n], data, dtype, rows, bias=bias)
        size = np.finfo(np.float32).eps * (np.abs(y[:n]) + np.abs(bias))
        assert_within(got, y[:n] + bias, allowed[:n] + size)


@pytest.mark.parametrize("repack", REPACK)
@pytest.mark.parametrize("dtype", DTYPES)
def test_sizes_swept(backend, dtype, repack):
    """Every number of rows around the tiles, every number of blocks up to a few."""
    unit = FORMATS[dtype].elements
    widths = [1, 7, 8, 15, 16, 17, 31, 33, 63, 65] if unit == 1 else [unit, 3 * unit]
    if unit == 32:
        widths += [5 * 32, 7 * 32, 9 * 32]
    for k in widths:
        data, x, y, allowed = task(dtype, 37, k)
        for rows in (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 37):
            got = _native.op_matmul(backend, x[:3], data[:rows], dtype, rows, repack=repack)
            assert_within(got, y[:3, :rows], allowed[:3, :rows])


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_rows_of_input_give_no_rows_of_output(backend, dtype):
    rows, k = shapes(dtype)[0]
    data, x, _, _ = task(dtype, rows, k)
    assert _native.op_matmul(backend, x[:0], data, dtype, rows).shape == (0, rows)


@pytest.mark.parametrize("repack", REPACK)
@pytest.mark.parametrize("dtype", BLOCKS)
def test_extreme_codes_do_not_saturate(backend, dtype, repack):
    """All bits set, all clear and alternating, times inputs at the ends of their range."""
    row = FORMATS[dtype]
    k = 2 * 256
    patterns = np.array([0x00, 0xFF, 0x7F, 0x80, 0xF0, 0x0F, 0xAA, 0x55], np.uint8)
    data = np.repeat(patterns[:, None], k // row.elements * row.bytes, axis=1)
    blocks = data.reshape(-1, row.bytes)
    for at in row.half_fields:
        blocks[:, at : at + 2] = np.array([0.01], "<f2").view(np.uint8)
    if row.put:
        row.put(blocks, np.full((len(blocks), 1), 0.01))
    w = decode(data, dtype)
    x = np.ones((4, k), np.float32)
    x[1] = -1
    x[2, ::2] = -1
    x[3] = np.where(np.arange(k) % 32 == 0, 1.0, 1 / 254.1)
    y = x.astype(np.float64) @ w.astype(np.float64).T
    got = _native.op_matmul(backend, x, data, dtype, len(data), repack=repack)
    # Not random: rounding errors may all have one sign, so the worst case is the bound. Codes that
    # stand for +-1 are exact, but float32 sums of large terms that cancel are not.
    terms = np.abs(x).astype(np.float64) @ np.abs(w).astype(np.float64).T
    spread = np.abs(w).max(axis=1).astype(np.float64)
    allowed = (2.0**-11 + 64 * 2.0**-23) * terms + 64 * 2.0**-23 * k * spread
    if dtype in ("q2_k", "q4_k", "q5_k"):
        allowed += 64 * 2.0**-23 * k * 0.01 * 63 * 31
    assert_within(got[:3], y[:3], allowed[:3])
    assert_within(got[3:], y[3:], (allowed + np.abs(w).sum(axis=1) / 254)[3:])


@pytest.mark.parametrize("repack", REPACK)
@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_outliers_and_tiny_inputs(backend, dtype, repack):
    rows, k = shapes(dtype)[0]
    data, x, _, _ = task(dtype, rows, k)
    w = decode(data, dtype).reshape(rows, k)
    x = x[:5].copy()
    x[0] = 0
    x[1, 3] = 1e4
    x[2] *= 1e-20
    x[3, : k // 2] = 0
    x[4] *= 1e8
    got = _native.op_matmul(backend, x, data, dtype, rows, repack=repack)
    assert not got[0].any()
    allowed = bound(x, w, dtype)
    y = x.astype(np.float64) @ w.astype(np.float64).T
    assert_within(got, y, allowed + 1e-35)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_spoilt_row_spoils_only_itself(backend, dtype):
    rows, k = shapes(dtype)[0]
    data, x, _, _ = task(dtype, rows, k)
    clean = _native.op_matmul(backend, x[:9], data, dtype, rows)
    spoilt = x[:9].copy()
    spoilt[4, 5] = np.nan
    spoilt[6, 9] = np.inf
    got = _native.op_matmul(backend, spoilt, data, dtype, rows)
    others = [0, 1, 2, 3, 5, 7, 8]
    np.testing.assert_array_equal(got[others], clean[others])
    if dtype in ELEMENTS:
        assert np.isnan(got[4]).all()
        assert not np.isfinite(got[6]).any()


def test_weights_may_lie_at_any_address(backend):
    rows, k = 33, 224
    for dtype in DTYPES:
        if FORMATS[dtype].elements == 256:
            continue
        data, x, _, _ = task(dtype, rows, k)
        size = {"f32": 4, "f16": 2, "bf16": 2}.get(dtype, 2)
        shifted = memoryview(bytes(size) + data.tobytes())[size:]
        for repack in REPACK:
            expected = _native.op_matmul(backend, x[:2], data, dtype, rows, repack=repack)
            got = _native.op_matmul(backend, x[:2], shifted, dtype, rows, repack=repack)
            np.testing.assert_array_equal(got, expected, err_msg=dtype)


def test_wrong_sizes_are_refused(backend):
    data, x, _, _ = task("q8_0", 64, 512)
    bad = [
        (x[:1, :480], data, "q8_0", 64),
        (x[:1], data, "q8_0", 63),
        (x[:1], data, "q8_0", 65),
        (x[:1], data.reshape(-1)[:-1], "q8_0", 64),
        (x[:1, :33], data, "q8_0", 64),
        (x[:1], data, "q8_0", -1),
        (x[:1], data, "q8_0", 2**60),
    ]
    for arguments in bad:
        with pytest.raises(ShapeError):
            _native.op_matmul(backend, *arguments)
    with pytest.raises(ShapeError):
        _native.op_matmul(backend, x[:1], data, "q8_0", 64, bias=np.zeros(63, np.float32))
    with pytest.raises(DTypeError, match="q9_z"):
        _native.op_matmul(backend, x[:1], data, "q9_z", 64)
    with pytest.raises((LlamaRtError, ValueError)):
        _native.op_matmul(backend, x[:1], data, "q8_0", 64, repack="sometimes")


def test_levels_agree_on_random_shapes(opened):
    """Twenty seeded shapes: each level within its bound of the exact product."""
    rng = np.random.default_rng(11)
    for _ in range(20):
        dtype = str(rng.choice(DTYPES))
        unit = FORMATS[dtype].elements
        rows, n = int(rng.integers(1, 150)), int(rng.integers(1, 40))
        k = unit * int(rng.integers(1, {1: 700, 32: 20, 256: 4}[unit]))
        data, x, y, allowed = task(dtype, rows, k)
        for level in _native.cpu_info().tiers:
            got = _native.op_matmul(opened(level), x[:n], data, dtype, rows)
            assert_within(got, y[:n], allowed[:n])
