"""Products on the emulated device against float64 numpy, for every kernel and dtype."""

import numpy as np
import pytest

from emulated_products import DTYPES, Cache, multiply
from reference import bounds
from reference.blocks import FORMATS, decode, random_bytes

PACKED = tuple(dtype for dtype in DTYPES if dtype != "f32")
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


@pytest.mark.parametrize("dtype", PACKED)
@pytest.mark.parametrize("kernel", FAST)
@pytest.mark.parametrize("n", [65, 130])
def test_many_inputs(kernel, dtype, n):
    elements = FORMATS[dtype].elements
    check(kernel, dtype, n, 3 * elements if elements > 1 else 200, [130])


@pytest.mark.parametrize("dtype", PACKED)
@pytest.mark.parametrize(("kernel", "n"), [("matvec", 2), ("gemm_mma", 20), ("gemm_wgmma", 66)])
def test_long_sums_shared_by_blocks(kernel, dtype, n):
    """Tiles of several steps, of which blocks begin and end in the middle."""
    check(kernel, dtype, n, 19 * 256, [100, 90])


@pytest.mark.parametrize("dtype", ["bf16", "f16", "q4_k"])
def test_wide_tiles(dtype):
    check("gemm_wgmma", dtype, 1030, 256, [64])


@pytest.mark.parametrize("kernel", ["stored", *FAST])
@pytest.mark.parametrize("n", [2, 70])
def test_several_matrices_with_bias_and_norm(kernel, n):
    x, stored, values = case("q8_0", n, 320, [96, 33, 160])
    rng = np.random.default_rng(3)
    gain = rng.uniform(0.5, 1.5, 320).astype(np.float32)
    bias = [rng.standard_normal(96).astype(np.float32), None, None]
    got = multiply(kernel, "q8_0", x, stored, bias=bias, gain=gain)
    wide = x.astype(np.float64)
    normed = wide / np.sqrt((wide**2).mean(axis=1, keepdims=True) + 1e-5) * gain
    for result, w, b in zip(got, values, bias, strict=True):
        expected = normed @ w.T + (0 if b is None else b)
        assert (np.abs(result - expected) <= allowed(kernel, "q8_0", normed, w) + 1e-6).all()


@pytest.mark.parametrize("kernel", ["stored", *FAST])
@pytest.mark.parametrize("n", [5, 66])
def test_adding_to_what_is_there(kernel, n):
    x, stored, values = case("q4_0", n, 256, [80])
    before = np.random.default_rng(4).standard_normal((n, 80)).astype(np.float32)
    (got,) = multiply(kernel, "q4_0", x, stored, out=[before])
    expected = before + x.astype(np.float64) @ values[0].T
    assert (np.abs(got - expected) <= allowed(kernel, "q4_0", x, values[0]) + 1e-6).all()


@pytest.mark.parametrize("kernel", ["stored", *FAST])
@pytest.mark.parametrize("n", [3, 72])
@pytest.mark.parametrize("rows", [48, 100])
def test_gates(kernel, n, rows):
    x, stored, values = case("q6_k", n, 512, [rows, rows])
    got = multiply(kernel, "q6_k", x, stored, swiglu=True)[0]
    gate, up = (x.astype(np.float64) @ w.T for w in values)
    # The gate's slope is below 1.1, and its value below its argument's.
    slack = [allowed(kernel, "q6_k", x, w) for w in values]
    error = 1.1 * slack[0] * np.abs(up) + slack[1] * np.abs(gate) + slack[0] * slack[1] + 1e-6
    assert (np.abs(got - gate / (1 + np.exp(-gate)) * up) <= error).all()


@pytest.mark.parametrize("dtype", PACKED)
@pytest.mark.parametrize("kernel", ["matvec", "gemm_mma", "gemm_wgmma"])
def test_an_input_has_the_bits_it_has_alone(kernel, dtype):
    x, stored, _ = case(dtype, 70, 512, [50])
    (together,) = multiply(kernel, dtype, x, stored, reproducible=True)
    for i in (0, 9, 69):
        (alone,) = multiply(kernel, dtype, x[i : i + 1], stored, reproducible=True)
        np.testing.assert_array_equal(together[i : i + 1], alone)


@pytest.mark.parametrize("dtype", PACKED)
def test_few_inputs_have_the_bits_of_one(dtype):
    x, stored, _ = case(dtype, 8, 768, [90])
    (together,) = multiply("matvec", dtype, x, stored)
    (alone,) = multiply("matvec", dtype, x[5:6], stored)
    np.testing.assert_array_equal(together[5:6], alone)


@pytest.mark.parametrize("dtype", ["f16", "q8_0"])
def test_inputs_of_any_size(dtype):
    """Powers of two apart: what an input is rounded to is relative to it."""
    x, stored, values = case(dtype, 3, 256, [32])
    x *= np.array([[1e-12], [1.0], [1e9]], np.float32)
    for kernel in FAST:
        (got,) = multiply(kernel, dtype, x, stored)
        error = np.abs(got - x.astype(np.float64) @ values[0].T)
        assert (error <= allowed(kernel, dtype, x, values[0])).all()


def appended(dtype, kv_dtype, e, spans, *, halves, k=256, n_heads=(4, 2)):
    """The queries and the cache: appended by the products, and by a launch of its own."""
    heads, kv_heads = n_heads
    n = sum(count for _, count in spans)
    x, stored, _ = case(dtype, n, k, [heads * e, kv_heads * e, kv_heads * e])
    rng = np.random.default_rng(7)
    bias = [rng.standard_normal(len(w)).astype(np.float32) for w in stored]
    for apart in (False, True):
        cache = Cache(kv_dtype, e, kv_heads, spans, halves=halves, apart=apart)
        q, *_ = multiply("matvec", dtype, x, stored, bias=bias, cache=cache)
        yield q, cache.data


@pytest.mark.parametrize("dtype", ["bf16", "f16", "q4_0", "q4_k"])
@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("kv_dtype", ["f32", "f16", "bf16"])
def test_products_append_to_the_cache(dtype, kv_dtype, halves):
    """The same bits as a launch of its own leaves, also where it leaves all as it was."""
    for e, spans in ((32, [(70, 1)]), (64, [(0, 3), (63, 2), (9, 1)]), (128, [(60, 8)])):
        results = zip(*appended(dtype, kv_dtype, e, spans, halves=halves), strict=True)
        for together, apart in results:
            np.testing.assert_array_equal(together, apart)


@pytest.mark.parametrize("halves", [False, True])
def test_blocks_that_share_a_tile_append_to_the_cache(halves):
    """Where pairs are half a head apart, other rows share a tile, and sums are cut elsewhere."""
    spans = [(5, 1), (64, 2)]
    options = {"halves": halves, "k": 19 * 256, "n_heads": (1, 1)}
    (q, cache), (q_apart, cache_apart) = appended("q8_0", "f32", 64, spans, **options)
    scale = np.abs(q_apart).max()
    np.testing.assert_allclose(q, q_apart, rtol=0, atol=1e-5 * scale)
    values, expected = cache.view(np.float32), cache_apart.view(np.float32)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5 * scale)


def test_inputs_that_share_the_memory_of_a_block_in_turns_append_to_the_cache():
    """More inputs than fit at once, as with `reproducible`."""
    spans = [(50, 20), (3, 1)]
    results = zip(*appended("bf16", "f16", 64, spans, halves=True), strict=True)
    for together, apart in results:
        np.testing.assert_array_equal(together, apart)
