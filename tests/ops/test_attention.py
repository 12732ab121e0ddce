"""Causal grouped attention over a paged cache, every level and cache type, against float64.

The reference works on keys and values as the cache stores them, so what is left is arithmetic.
"""

import numpy as np
import pytest

from llama_rt import _native
from llama_rt.errors import LlamaRtError, ShapeError
from reference import model
from reference.blocks import decode, encode
from reference.bounds import EPS

KV_DTYPES = ["f32", "f16", "bf16", "q8_0"]
# What a kernel may round the query (and the probabilities) to when the cache holds this type.
ROUNDING = {"f32": 0.0, "f16": 2.0**-11, "bf16": 2.0**-8, "q8_0": 1 / 254}
# (queries, positions, query heads, kv heads, head width)
SHAPES = [
    (1, 1, 1, 1, 32),
    (1, 64, 4, 2, 32),
    (1, 65, 8, 2, 64),
    (1, 300, 4, 4, 128),
    (5, 5, 6, 3, 32),
    (9, 70, 4, 1, 64),
    (33, 130, 4, 2, 96),
    (130, 130, 2, 2, 64),
    (1, 1100, 2, 1, 32),
    (3, 2050, 2, 2, 32),
]
# As many queries as a backend may take another way, which rounds differently: blocks that are full
# and not, of one head and of groups, behind a past of other lengths than whole pages.
MANY = [
    (16, 16, 2, 2, 32),
    (33, 130, 4, 2, 96),
    (130, 130, 2, 2, 64),
    (70, 1060, 8, 2, 128),
    (600, 600, 3, 1, 64),
    (40, 40, 1, 1, 192),
]
ODD_WIDTHS = [(3, 20, 5, 5, 40), (7, 66, 6, 2, 10), (2, 9, 3, 1, 2), (4, 67, 2, 1, 80)]


def inputs(n, t, heads, kv_heads, width, seed=0, sharp=1.0):
    rng = np.random.default_rng(seed)
    q = (sharp * rng.standard_normal((n, heads, width))).astype(np.float32)
    k, v = (rng.standard_normal((t, kv_heads, width)).astype(np.float32) for _ in range(2))
    return q, k, v


def stored(x, dtype):
    """`x` as the cache gives it back: rounded along each head's row."""
    return decode(encode(x, dtype), dtype).reshape(x.shape).astype(np.float64)


def check(backend, q, k, v, dtype, window=0):
    ks, vs = stored(k, dtype), stored(v, dtype)
    expected = model.attention(q.astype(np.float64), ks, vs, window)
    got = _native.op_attention(backend, q, k, v, kv_dtype=dtype, window=window)
    assert got.shape == q.shape
    # A score is off by eps (or the rounding) times the norms, and a probability by its relative
    # share of that; the sums over positions add sqrt(t) roundings. c = 4 for each.
    score = np.linalg.norm(q, axis=-1).max() * np.linalg.norm(ks, axis=-1).max()
    score /= np.sqrt(q.shape[-1])
    error = EPS * (1 + score * np.sqrt(q.shape[-1])) + EPS * np.sqrt(len(k))
    error += ROUNDING[dtype] * (1 + score / np.sqrt(q.shape[-1]) * 2)
    allowed = 4 * error * np.abs(vs).max()
    assert np.abs(got - expected).max() <= allowed
    return got


@pytest.mark.parametrize("dtype", KV_DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "-".join(map(str, s)))
def test_within_bounds(backend, dtype, shape):
    check(backend, *inputs(*shape), dtype)


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("shape", ODD_WIDTHS, ids=lambda s: "-".join(map(str, s)))
def test_odd_head_widths(backend, dtype, shape):
    check(backend, *inputs(*shape), dtype)


@pytest.mark.parametrize("shape", ODD_WIDTHS, ids=lambda s: "-".join(map(str, s)))
def test_odd_head_widths_in_blocks_are_right_or_refused(backend, shape):
    q, k, v = inputs(*shape)
    try:
        got = _native.op_attention(backend, q, k, v, kv_dtype="q8_0")
    except LlamaRtError as error:
        assert "q8_0" in str(error)  # noqa: PT017 - either outcome is right
        return
    exact = model.attention(*(a.astype(np.float64) for a in (q, k, v)))
    assert np.linalg.norm(got - exact) < 0.02 * np.linalg.norm(exact)


@pytest.mark.parametrize("window", [1, 2, 16, 63, 64, 65, 600, 5000])
def test_windows(backend, window):
    for shape in ((1, 200, 4, 2, 32), (40, 70, 2, 1, 32), (70, 70, 2, 2, 32), (35, 1210, 2, 1, 32)):
        check(backend, *inputs(*shape), "f32", window)
        check(backend, *inputs(*shape), "f16", window)


@pytest.mark.parametrize("dtype", KV_DTYPES)
@pytest.mark.parametrize("shape", MANY, ids=lambda s: "-".join(map(str, s)))
def test_many_queries(opened, level, dtype, shape):
    backends = [opened(level, threads, False) for threads in (1, 2)]
    q, k, v = inputs(*shape)
    for window in (0, 1, 50, 100):
        one, two = (check(backend, q, k, v, dtype, window) for backend in backends)
        np.testing.assert_array_equal(one, two)
    q, k, v = inputs(*shape, sharp=20.0)
    got = _native.op_attention(backends[0], q, k, v, kv_dtype=dtype)
    assert np.abs(got).max() <= np.abs(v).max() * 1.01


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("width", [2, 10, 40, 80])
def test_many_queries_of_odd_widths(opened, level, dtype, width):
    check(opened(level, 2, False), *inputs(45, 90, 6, 2, width), dtype)


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_many_queries_keep_the_precision_of_the_cache(opened, level, dtype):
    """What attention adds to the rounding of an f16 cache is far below that rounding."""
    q, k, v = inputs(64, 200, 4, 2, 128, sharp=3.0)
    ks, vs = stored(k, dtype), stored(v, dtype)
    got = _native.op_attention(opened(level, 2, False), q, k, v, kv_dtype=dtype)
    expected = model.attention(q.astype(np.float64), ks, vs, 0)
    assert np.linalg.norm(got - expected) < 2.0**-15 * np.linalg.norm(expected)


def test_window_of_one_copies_the_value(backend):
    q, k, v = inputs(3, 9, 4, 2, 16)
    got = _native.op_attention(backend, q, k, v, kv_dtype="f32", window=1)
    np.testing.assert_allclose(got, np.repeat(v[6:], 2, axis=1), rtol=1e-6)


@pytest.mark.parametrize("dtype", KV_DTYPES)
def test_sharp_scores_do_not_overflow(backend, dtype):
    q, k, v = inputs(3, 100, 2, 1, 64, sharp=60.0)
    got = _native.op_attention(backend, q, k, v, kv_dtype=dtype)
    assert np.isfinite(got).all()
    assert np.abs(got).max() <= np.abs(v).max() * 1.01
    if dtype == "f32":
        check(backend, q, k, v, dtype)


def test_equal_scores_average_the_values(backend):
    q, k, v = inputs(1, 129, 2, 2, 32)
    got = _native.op_attention(backend, 0 * q, k, v, kv_dtype="f32")
    np.testing.assert_allclose(got[0], v.mean(axis=0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", KV_DTYPES)
def test_a_query_does_not_see_its_neighbours(backend, dtype):
    """Each query of a chunk has the bits it has alone."""
    for n, t, window in ((9, 70, 0), (66, 66, 0), (40, 200, 30), (40, 1100, 0), (70, 1060, 520)):
        q, k, v = inputs(n, t, 4, 2, 32)
        options = {"kv_dtype": dtype, "window": window}
        together = _native.op_attention(backend, q, k, v, **options)
        for i in (0, 1, n // 2, n - 1):
            end = t - n + i + 1
            alone = _native.op_attention(backend, q[i : i + 1], k[:end], v[:end], **options)
            np.testing.assert_array_equal(alone[0], together[i], err_msg=f"query {i} of {n}")


@pytest.mark.parametrize("dtype", KV_DTYPES)
@pytest.mark.parametrize("window", [0, 30])
@pytest.mark.parametrize("reproducible", [True, False])
def test_only_what_is_seen_counts(opened, level, dtype, window, reproducible):
    """NaN at a position reaches the queries that see it, and changes no bit of the others."""
    backend = opened(level, 2, reproducible)
    n, t, at = 66, 200, 150  # query i is at position 134 + i
    q, k, v = inputs(n, t, 4, 2, 32)
    options = {"kv_dtype": dtype, "window": window}
    clean = _native.op_attention(backend, q, k, v, **options)
    positions = t - n + np.arange(n)
    sees = (positions >= at) & ((positions < at + window) if window else True)
    for spoilt in (k, v):
        kept = spoilt[at].copy()
        spoilt[at] = np.nan
        got = _native.op_attention(backend, q, k, v, **options)
        spoilt[at] = kept
        np.testing.assert_array_equal(got[~sees], clean[~sees])
        assert np.isnan(got[sees]).all()


@pytest.mark.parametrize("dtype", KV_DTYPES)
def test_threads_do_not_change_bits(opened, level, dtype):
    for shape in (
        (1, 300, 4, 2, 64),
        (1, 2100, 1, 1, 32),
        (33, 130, 4, 2, 64),
        (2, 1030, 2, 1, 32),
    ):
        q, k, v = inputs(*shape)
        results = [
            _native.op_attention(opened(level, t), q, k, v, kv_dtype=dtype) for t in (1, 2, 3)
        ]
        np.testing.assert_array_equal(results[0], results[1])
        np.testing.assert_array_equal(results[0], results[2])


def test_wrong_shapes_are_refused(backend):
    q, k, v = inputs(4, 9, 4, 2, 16)
    bad = [
        (q, k, v[:-1]),
        (q, k[:3], v[:3]),
        (q[:, :3], k, v),
        (q, k[..., :8], v[..., :8]),
        (q, k, v[:, :1]),
    ]
    for arguments in bad:
        with pytest.raises(ShapeError):
            _native.op_attention(backend, *arguments, kv_dtype="f32")
    with pytest.raises(LlamaRtError):
        _native.op_attention(backend, q, k, v, kv_dtype="q4_0_of_no_kind")
