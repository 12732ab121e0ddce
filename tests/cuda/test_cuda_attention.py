"""Attention kernels on the emulated device against float64 numpy, over what the cache stores."""

import numpy as np
import pytest

from emulated_attention import Options, attend
from reference import model
from reference.blocks import decode, encode
from reference.bounds import EPS

KV_DTYPES = ["f32", "f16", "bf16", "q8_0"]
# What a kernel rounds queries and probabilities to over this cache.
ROUNDING = {"f32": 0.0, "f16": 2.0**-11, "bf16": 2.0**-8, "q8_0": 2.0**-11}


def stored(x, dtype):
    """`x` as the cache gives it back: rounded along each head's row, a short last block padded."""
    e = x.shape[-1]
    wide = np.zeros((*x.shape[:-1], -(-e // 32) * 32), np.float32)
    wide[..., :e] = x
    return decode(encode(wide, dtype), dtype).reshape(wide.shape)[..., :e].astype(np.float64)


def inputs(spans, heads, kv_heads, e, seed=0):
    """Queries, keys and values of sequences given as (rows, context)."""
    rng = np.random.default_rng(seed)
    q = [rng.standard_normal((n, heads, e)).astype(np.float32) for n, _ in spans]
    k = [rng.standard_normal((t, kv_heads, e)).astype(np.float32) for _, t in spans]
    v = [rng.standard_normal((t, kv_heads, e)).astype(np.float32) for _, t in spans]
    return q, k, v


def check(spans, heads, kv_heads, e, dtype, options=None, spread=1.0):
    options = options or Options()
    q, k, v = inputs(spans, heads, kv_heads, e)
    v = [one * np.float32(spread) for one in v]
    got, _ = attend(q, k, v, dtype, options)
    for a, b, c, d in zip(q, k, v, got, strict=True):
        ks, vs = stored(b, dtype), stored(c, dtype)
        if options.length:
            rows = [
                model.attention(
                    r[None].astype(np.float64), ks[: options.length], vs[: options.length]
                )
                for r in a
            ]
            expected = np.concatenate(rows)
        else:
            expected = model.attention(a.astype(np.float64), ks, vs, options.window)
        score = np.linalg.norm(a, axis=-1).max() * np.linalg.norm(ks, axis=-1).max() / np.sqrt(e)
        error = EPS * (1 + score * np.sqrt(e)) + EPS * np.sqrt(len(b))
        error += ROUNDING[dtype] * (1 + score / np.sqrt(e) * 2)
        assert np.abs(d - expected).max() <= 4 * error * np.abs(vs).max()
    return got


@pytest.mark.parametrize("dtype", KV_DTYPES)
@pytest.mark.parametrize("group", [1, 2, 3, 5, 8])
def test_heads_that_share_a_kv_head(dtype, group):
    check([(1, 70)], 2 * group, 2, 64, dtype)


@pytest.mark.parametrize("dtype", KV_DTYPES)
@pytest.mark.parametrize("e", [2, 10, 32, 40, 64, 80, 96, 100, 128, 160, 256])
def test_head_widths(dtype, e):
    check([(1, 83)], 4, 2, e, dtype)


@pytest.mark.parametrize("dtype", KV_DTYPES)
@pytest.mark.parametrize("context", [1, 15, 16, 17, 63, 64, 65, 129, 511, 513, 1100])
def test_lengths(dtype, context):
    check([(1, context)], 2, 1, 32, dtype)
    check([(1, context)], 2, 1, 32, dtype, Options(reproducible=True, spare_context=700))


@pytest.mark.parametrize("dtype", KV_DTYPES)
@pytest.mark.parametrize("reproducible", [False, True])
def test_several_sequences(dtype, reproducible):
    spans = [(1, 90), (3, 3), (17, 200), (1, 1), (33, 65), (1, 600)]
    check(spans, 4, 2, 32, dtype, Options(reproducible=reproducible))


@pytest.mark.parametrize("dtype", KV_DTYPES)
@pytest.mark.parametrize("window", [1, 2, 16, 63, 65, 300])
def test_windows(dtype, window):
    check([(1, 200), (40, 70), (5, 700)], 4, 2, 32, dtype, Options(window=window))


@pytest.mark.parametrize("dtype", KV_DTYPES)
@pytest.mark.parametrize("stored_first", [1, 8, 13, 77])
def test_the_cache_does_not_depend_on_how_it_was_filled(dtype, stored_first):
    q, k, v = inputs([(3, 100), (1, 30)], 4, 2, 40)
    once, _ = attend(q, k, v, dtype)
    twice, _ = attend(q, k, v, dtype, Options(stored_first=stored_first))
    for a, b in zip(once, twice, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", KV_DTYPES)
def test_every_row_sees_a_prefix(dtype):
    check([(5, 70), (1, 40)], 4, 2, 32, dtype, Options(length=10))


@pytest.mark.parametrize("dtype", KV_DTYPES)
@pytest.mark.parametrize("group", [1, 3, 4, 20])
def test_a_row_has_the_same_bits_beside_others(dtype, group):
    q, k, v = inputs([(19, 700), (2, 130)], 2 * group, 2, 32)
    options = Options(reproducible=True, window=0)
    together, _ = attend(q, k, v, dtype, options)
    for i in (0, 7, 18):
        end = 700 - 18 + i
        alone, _ = attend([q[0][i : i + 1]], [k[0][:end]], [v[0][:end]], dtype, options)
        np.testing.assert_array_equal(alone[0][0], together[0][i])


@pytest.mark.parametrize("dtype", KV_DTYPES)
def test_the_order_of_warps_does_not_matter(dtype):
    q, k, v = inputs([(1, 1030), (30, 300)], 8, 2, 64)
    first, _ = attend(q, k, v, dtype)
    second, _ = attend(q, k, v, dtype, Options(descending=True))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("dtype", KV_DTYPES)
def test_rotation_on_the_way_to_the_cache(dtype, halves):
    e, t = 40, 70
    q, k, v = inputs([(t, t)], 6, 2, e)
    angles = np.random.default_rng(2).uniform(0, 6, (t, e // 2)).astype(np.float32)
    cos, sin = np.cos(angles), np.sin(angles)

    def rotate(x):
        pairs = (x[..., : e // 2], x[..., e // 2 :]) if halves else (x[..., ::2], x[..., 1::2])
        a, b = (p.astype(np.float64) for p in pairs)
        c, s = cos[:, None], sin[:, None]
        turned = a * c - b * s, a * s + b * c
        return np.concatenate(turned, -1) if halves else np.stack(turned, -1).reshape(x.shape)

    options = Options(rotation=(cos, sin), halves=halves)
    got, rotated = attend(q, k, v, dtype, options)
    np.testing.assert_allclose(rotated[0], rotate(q[0]), rtol=0, atol=2e-6)
    plain, _ = attend(rotated, [rotate(k[0]).astype(np.float32)], v, dtype)
    # The keys may round to a neighbour in the cache.
    bound = {"f32": 1e-4, "f16": 5e-3, "bf16": 5e-2, "q8_0": 5e-2}[dtype]
    np.testing.assert_allclose(got[0], plain[0], rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", ["f16", "bf16", "q8_0"])
@pytest.mark.parametrize("e", [2, 32, 40, 64, 96, 100, 128, 160, 256])
def test_many_rows_of_every_width(dtype, e):
    check([(33, 83), (1, 70), (70, 70)], 4, 2, e, dtype)


@pytest.mark.parametrize("dtype", ["f16", "bf16", "q8_0"])
@pytest.mark.parametrize("group", [1, 3, 8, 20])
def test_many_rows_of_heads_that_share_a_kv_head(dtype, group):
    check([(29, 150), (9, 9)], 2 * group, 2, 32, dtype)
    check([(29, 150), (9, 9)], 2 * group, 2, 32, dtype, Options(window=40))


@pytest.mark.parametrize("dtype", ["f16", "bf16", "q8_0"])
@pytest.mark.parametrize("e", [50, 64, 100, 128])
def test_warpgroups(dtype, e):
    """Tiles of 128 vectors: part of one, several, windows, odd ends, and rows of other kernels."""
    check([(33, 83), (1, 70), (150, 450)], 4, 2, e, dtype, Options(hopper=True))
    check([(70, 70)], 2, 2, e, dtype, Options(hopper=True, descending=True))
    check([(140, 400)], 3, 1, e, dtype, Options(hopper=True, window=77))
    check([(20, 100)], 2, 1, e, dtype, Options(hopper=True, length=70))


@pytest.mark.parametrize("spread", [1e-3, 500.0])
def test_warpgroups_keep_small_and_large_values(spread):
    """They are scaled on their way to halves: small ones are not lost, large ones not infinite."""
    check([(20, 70)], 2, 1, 64, "q8_0", Options(hopper=True), spread)


@pytest.mark.parametrize("dtype", KV_DTYPES)
@pytest.mark.parametrize("e", [192, 256])
def test_widest_heads_fit_the_smallest_shared_memory(monkeypatch, dtype, e):
    monkeypatch.setenv("EMULATED_CAPABILITY", "86")
    check([(1, 300), (40, 170), (70, 70)], 4, 2, e, dtype)
    check([(30, 150)], 3, 1, e, dtype, Options(window=37, descending=True))


@pytest.mark.parametrize("dtype", ["f16", "q8_0"])
def test_batches_large_and_small_for_the_device(dtype):
    """Cuts of every length: one multiprocessor has plenty of blocks, a thousand have too few."""
    for multiprocessors in (1, 1000):
        options = Options(multiprocessors=multiprocessors)
        check([(1, 600)] * 3 + [(1, 5), (2, 1500)], 4, 4, 32, dtype, options)
        check([(40, 300), (1, 700), (2, 200)], 4, 2, 32, dtype, options)
