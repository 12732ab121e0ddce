"""Every op of the contract on a CUDA device, every stored type, against float64."""

import numpy as np
import pytest

from llama_rt import _native
from reference import model
from reference.blocks import FORMATS, decode, encode, random_bytes
from reference.bounds import EPS
from reference.bounds import matmul as bound

DTYPES = [row.name for row in _native.dtypes()]
KV_DTYPES = ["f32", "f16", "bf16", "q8_0"]
# What a kernel may round the query (and the probabilities) to when the cache holds this type.
ROUNDING = {"f32": 0.0, "f16": 2.0**-11, "bf16": 2.0**-8, "q8_0": 1 / 254}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def product(dtype, rows, k, n):
    """Stored weights, inputs, their product in float64 and how far off it may be."""
    data = random_bytes(dtype, rows, k, seed=rows + k)
    w = decode(data, dtype).reshape(rows, k)
    x = normal(n, k, seed=k)
    return data, x, x.astype(np.float64) @ w.astype(np.float64).T, bound(x, w, dtype)


def shapes(dtype, large):
    unit = FORMATS[dtype].elements
    small = [(70, 2 * max(unit, 64)), (5, max(unit, 8))]
    return [*small, (331, 5 * unit if unit > 1 else 203), (1024, 2048)] if large else small


@pytest.mark.parametrize("repack", ["never", "always"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_matmul_within_bounds_whatever_the_batch(backend, large, dtype, repack):
    """Also: with `reproducible` a row's bits do not depend on how many others there are."""
    counts = [1, 2, 5, 8, 9, 16, 33, 64, 65, 130] if large else [1, 3, 9, 17]
    for rows, k in shapes(dtype, large):
        data, x, y, allowed = product(dtype, rows, k, max(counts))
        full = _native.op_matmul(backend, x, data, dtype, rows, repack=repack)
        assert (np.abs(full - y) <= allowed).all(), f"{rows}x{k}"
        for n in counts[:-1]:
            got = _native.op_matmul(backend, x[:n], data, dtype, rows, repack=repack)
            np.testing.assert_array_equal(got, full[:n], err_msg=f"{n} rows of {rows}x{k}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_matmul_of_many_inputs(fast, large, dtype):
    """The kernels that are taken when bits may depend on the batch."""
    for rows, k in shapes(dtype, large)[:: 2 if large else 1]:
        for n in (1, 9, 64, 130, 300) if large else (2, 24):
            data, x, y, allowed = product(dtype, rows, k, n)
            bias = normal(rows, seed=1)
            got = _native.op_matmul(fast, x, data, dtype, rows, bias=bias)
            # Quantized weights may be rounded to bfloat16 on their way to the tensor cores.
            rounded = (
                2.0**-8
                * np.abs(x).astype(np.float64)
                @ np.abs(decode(data, dtype).reshape(rows, k)).T
                / np.sqrt(k)
            )
            slack = EPS * (np.abs(y) + np.abs(bias)) + 8 * rounded
            assert (np.abs(got - (y + bias)) <= allowed + slack).all(), f"{n} of {rows}x{k}"


@pytest.mark.parametrize("dtype", DTYPES)
def test_embed_decodes_rows(backend, dtype):
    for dim in (256, 768) if FORMATS[dtype].elements > 1 else (1, 50, 200):
        data = random_bytes(dtype, 91, dim, seed=dim)
        table = decode(data, dtype).reshape(91, dim)
        tokens = np.array([0, 90, 5, 5, 44, 1, 89], np.int32)
        got = _native.op_embed(backend, data, dtype, 91, dim, tokens)
        np.testing.assert_array_equal(got, table[tokens])


def test_rms_norm(backend):
    for k in (1, 31, 100, 331, 4099):
        x, gain = normal(9, k, seed=k), normal(k, seed=k + 1)
        x[3] *= 1e-6
        x[4] *= 1e6
        x[5] = 0
        expected = model.rms_norm(x.astype(np.float64), gain.astype(np.float64), 1e-5)
        got = _native.op_rms_norm(backend, x, gain, 1e-5)
        np.testing.assert_allclose(got, expected, rtol=EPS * (4 + np.sqrt(k)), atol=1e-37)


def test_swiglu(backend):
    gate, up = 4 * normal(5, 331), normal(5, 331, seed=1)
    gate[0, :4] = [87, -87, 100, -100]
    expected = model.swiglu(gate.astype(np.float64), up.astype(np.float64))
    got = _native.op_swiglu(backend, gate, up)
    np.testing.assert_allclose(got, expected, rtol=16 * EPS, atol=1e-36)


@pytest.mark.parametrize("style", ["interleaved", "halves"])
def test_rope(backend, style):
    for heads, width in ((1, 2), (3, 10), (8, 128)):
        cos, sin = normal(50, width // 2, seed=1), normal(50, width // 2, seed=2)
        x = normal(7, heads, width, seed=3)
        positions = np.array([0, 49, 3, 3, 17, 1, 30], np.int32)
        wide = (cos.astype(np.float64)[positions], sin.astype(np.float64)[positions])
        expected = model.rotate(x.astype(np.float64), *wide, style)
        got = _native.op_rope(backend, x, positions, cos, sin, style)
        np.testing.assert_allclose(got, expected, rtol=0, atol=3 * EPS * 16)


@pytest.mark.parametrize("window", [0, 50])
@pytest.mark.parametrize("dtype", KV_DTYPES)
def test_attention(backend, fast, large, dtype, window):
    """Queries, positions, query heads, KV heads, head width."""
    cases = [(1, 1, 1, 1, 32), (1, 130, 8, 2, 64), (9, 70, 4, 1, 64), (33, 65, 2, 2, 128)]
    if large:
        cases += [(1, 300, 4, 4, 128), (5, 5, 6, 3, 32), (130, 130, 2, 2, 64), (33, 130, 4, 2, 96)]
        cases += [(1, 4100, 32, 8, 128), (200, 2050, 8, 2, 128), (20, 150, 2, 1, 256)]
    for n, t, heads, kv_heads, width in cases:
        q = normal(n, heads, width)
        k, v = normal(t, kv_heads, width, seed=1), normal(t, kv_heads, width, seed=2)
        ks, vs = (
            decode(encode(x, dtype), dtype).reshape(x.shape).astype(np.float64) for x in (k, v)
        )
        expected = model.attention(q.astype(np.float64), ks, vs, window)
        # As in the tests of the CPU's attention.
        score = np.linalg.norm(q, axis=-1).max() * np.linalg.norm(ks, axis=-1).max()
        score /= np.sqrt(width)
        error = EPS * (1 + score * np.sqrt(width)) + EPS * np.sqrt(t)
        error += ROUNDING[dtype] * (1 + score / np.sqrt(width) * 2)
        for one in (backend, fast):
            got = _native.op_attention(one, q, k, v, kv_dtype=dtype, window=window)
            assert np.abs(got - expected).max() <= 4 * error * np.abs(vs).max(), (n, t, width)
