"""Native encoding: small errors, the same bytes on every level, never outside its blocks."""

import numpy as np
import pytest

from llama_rt import _native
from llama_rt.errors import DTypeError, ShapeError
from reference.blocks import FORMATS, decode, encode

ENCODABLE = [row.name for row in _native.dtypes() if row.encodable]
# Rounded as llama.cpp does, byte for byte; the other block types search for better scales.
EXACT = ["f32", "f16", "bf16", "q8_0"]
BLOCKS = [name for name in ENCODABLE if FORMATS[name].elements > 1]
ELEMENTS = [name for name in ENCODABLE if FORMATS[name].elements == 1]


def written(x, dtype):
    """The native encoder's bytes, one row after the other."""
    return np.asarray(_native.encode(x, dtype)).reshape(-1)


@pytest.mark.parametrize("spread", [1e-6, 0.02, 1.0, 300.0])
@pytest.mark.parametrize("dtype", EXACT)
def test_bytes_are_the_reference_encoders(dtype, spread):
    rng = np.random.default_rng(int(spread * 1e6))
    x = (rng.standard_normal((256, 1024)) * spread).astype(np.float32)
    np.testing.assert_array_equal(written(x, dtype), encode(x, dtype).reshape(-1))


@pytest.mark.parametrize("dtype", EXACT)
def test_awkward_blocks(dtype):
    """Zeros, constants, one outlier, ties of magnitude, halves between two codes."""
    x = np.zeros((8, 256), np.float32)
    x[1] = 0.75
    x[2] = -0.75
    x[3, 100] = 1e4
    x[4] = np.tile([1.0, -1.0], 128)
    x[5] = np.tile([-1.0, 1.0], 128)
    x[6] = np.arange(256) - 127.5
    x[7] = np.where(np.arange(256) % 32 == 31, 127.0, np.arange(256) % 32 + 0.5)
    np.testing.assert_array_equal(written(x, dtype), encode(x, dtype).reshape(-1))


@pytest.mark.parametrize("dtype", ENCODABLE)
def test_denormal_and_tiny_blocks(dtype):
    """A scale too small for its half (or its reciprocal) gives values next to zero, never junk."""
    x = np.array([1e-45, 1e-39, 1e-30, 6e-8], np.float32)[:, None] * np.ones(256, np.float32)
    back = _native.decode(_native.encode(x, dtype), dtype, x.size).reshape(x.shape)
    assert np.abs(back - x).max() <= 2.0**-23


@pytest.mark.parametrize("dtype", ENCODABLE)
@pytest.mark.parametrize("blocks", [1, 2, 3, 5, 16, 33])
def test_every_tier_writes_the_same_bytes(dtype, blocks):
    """Any number of blocks: levels work on several at once."""
    x = np.random.default_rng(blocks).standard_normal((blocks, 256)).astype(np.float32)
    x[:, :32] *= 30
    first, *others = (
        np.asarray(_native.encode(x, dtype, isa=isa)) for isa in _native.cpu_info().tiers
    )
    alone = np.concatenate([np.asarray(_native.encode(x[i], dtype)) for i in range(blocks)])
    for other in (*others, alone):
        np.testing.assert_array_equal(other, first)


# Relative errors of llama.cpp's quantizers without an importance matrix (`ggml_quantize_chunk` of
# llama-cpp-python 0.3.36) on `samples`: plain, and with errors weighted by the spread of their
# group of 32 plus the weight's own magnitude, as its K quantizers do.
LLAMA_CPP = {
    ("q4_0", "normal"): (0.086349, 0.071602),
    ("q4_0", "tails"): (0.116613, 0.083922),
    ("q4_0", "outliers"): (0.135384, 0.076128),
    ("q4_1", "normal"): (0.078356, 0.063941),
    ("q4_1", "tails"): (0.093617, 0.065111),
    ("q4_1", "outliers"): (0.098093, 0.052433),
    ("q5_0", "normal"): (0.043071, 0.035490),
    ("q5_0", "tails"): (0.058423, 0.041868),
    ("q5_0", "outliers"): (0.074818, 0.043644),
    ("q5_1", "normal"): (0.037941, 0.030886),
    ("q5_1", "tails"): (0.045353, 0.031581),
    ("q5_1", "outliers"): (0.045554, 0.023490),
    ("q8_0", "normal"): (0.005375, 0.004418),
    ("q8_0", "tails"): (0.007420, 0.005351),
    ("q8_0", "outliers"): (0.009403, 0.005365),
    ("q2_k", "normal"): (0.296393, 0.237745),
    ("q2_k", "tails"): (0.344663, 0.233101),
    ("q2_k", "outliers"): (0.280971, 0.116948),
    ("q3_k", "normal"): (0.151887, 0.125030),
    ("q3_k", "tails"): (0.185180, 0.131888),
    ("q3_k", "outliers"): (0.164905, 0.080785),
    ("q4_k", "normal"): (0.071418, 0.058482),
    ("q4_k", "tails"): (0.087130, 0.060684),
    ("q4_k", "outliers"): (0.088216, 0.045008),
    ("q5_k", "normal"): (0.036127, 0.029733),
    ("q5_k", "tails"): (0.043995, 0.031025),
    ("q5_k", "outliers"): (0.044669, 0.022699),
    ("q6_k", "normal"): (0.017818, 0.014306),
    ("q6_k", "tails"): (0.022994, 0.016076),
    ("q6_k", "outliers"): (0.027146, 0.014910),
}


def samples():
    """Normal, heavy-tailed, with outlier columns: `{name: [16, 1024]}`."""
    random = np.random.default_rng(11)
    outliers = random.standard_normal((16, 1024))
    outliers[:, [5, 300, 777]] *= 20
    kinds = {
        "normal": random.standard_normal((16, 1024)),
        "tails": random.standard_t(4, (16, 1024)),
        "outliers": outliers,
    }
    return {name: (0.02 * x).astype(np.float32) for name, x in kinds.items()}


def errors_of(x, back):
    """(plain, weighted) error relative to the values, as `LLAMA_CPP` states them."""
    exact = x.astype(np.float64).reshape(-1, 32)
    off = (back.reshape(-1, 32) - exact) ** 2
    weight = np.sqrt((exact**2).mean(1, keepdims=True)) + np.abs(exact)
    return (
        np.sqrt(off.sum() / (exact**2).sum()),
        np.sqrt((weight * off).sum() / (weight * exact**2).sum()),
    )


@pytest.mark.parametrize(("dtype", "kind"), LLAMA_CPP)
def test_errors_are_no_larger_than_llama_cpps(dtype, kind):
    x = samples()[kind]
    back = _native.decode(_native.encode(x, dtype), dtype, x.size)
    for ours, theirs in zip(errors_of(x, back), LLAMA_CPP[dtype, kind], strict=True):
        assert ours <= theirs * 1.0005


@pytest.mark.parametrize(("dtype", "low", "high"), [("q4_0", -8, 7), ("q5_0", -16, 15)])
def test_scales_are_near_the_best_there_is(dtype, low, high):
    """Weighted squares of the error against every scale of a fine grid, both signs."""
    x = np.random.default_rng(7).standard_t(5, (64, 32)).astype(np.float32)
    weight = x.astype(np.float64) ** 2 + 2 * (x.astype(np.float64) ** 2).mean(1, keepdims=True)
    back = _native.decode(_native.encode(x, dtype), dtype, x.size).reshape(x.shape)
    ours = (weight * (back - x) ** 2).sum(1)
    best = np.full(len(x), np.inf)
    largest = np.abs(x).max(1, keepdims=True)
    for end in np.linspace(0.75, 1.3, 400):
        for scale in (end * largest / low, -end * largest / low):
            codes = np.clip(np.rint(x / scale), low, high)
            best = np.minimum(best, (weight * (codes * scale - x) ** 2).sum(1))
    assert (ours <= 1.12 * best).mean() > 0.95
    assert ours.sum() <= 1.03 * best.sum()


def test_rows_are_recoded_in_the_order_given():
    x = np.random.default_rng(9).standard_normal((50, 96)).astype(np.float32)
    stored = _native.encode(x, "f16")
    order = np.random.default_rng(9).permutation(50)[:33]
    halves = _native.decode(stored, "f16", x.size).reshape(x.shape)
    for threads in (1, 3):
        got = _native.requantize(stored, "f16", 96, "q5_1", order=order, threads=threads)
        np.testing.assert_array_equal(got, _native.encode(halves[order], "q5_1"))
    with pytest.raises(ShapeError, match="no row 50"):
        _native.requantize(stored, "f16", 96, "q5_1", order=np.array([50]))
    with pytest.raises(ShapeError, match="whole rows"):
        _native.requantize(stored[:-1], "f16", 96, "q5_1")


@pytest.mark.parametrize("dtype", ENCODABLE)
def test_encoding_again_loses_next_to_nothing(dtype):
    x = np.random.default_rng(6).standard_normal((8, 256)).astype(np.float32)
    once = _native.decode(_native.encode(x, dtype), dtype, x.size).reshape(x.shape)
    twice = _native.decode(_native.encode(once, dtype), dtype, x.size).reshape(x.shape)
    if dtype in EXACT:
        # The scale is rounded to a half once more, nothing else.
        assert np.abs(twice - once).max() <= 2.0**-10 * np.abs(x).max()
    else:
        assert np.linalg.norm(twice - x) <= 1.15 * np.linalg.norm(once - x)


def test_shape_is_rows_of_bytes():
    x = np.ones((3, 2, 64), np.float32)
    assert _native.encode(x, "q8_0").reshape(-1).size == 6 * 2 * 34
    assert _native.encode(x, "f16").reshape(-1).size == 6 * 64 * 2
    assert _native.encode(np.ones((0, 64), np.float32), "q8_0").size == 0


def test_element_types_keep_special_values():
    x = np.array([0, -0.0, np.inf, -np.inf, 1e-45, 65504, 65520, 3.4e38, 1e-8], np.float32)
    for dtype in ELEMENTS:
        np.testing.assert_array_equal(
            written(x, dtype), encode(x, dtype).reshape(-1), err_msg=dtype
        )


@pytest.mark.parametrize("dtype", ELEMENTS)
def test_nan_stays_nan(dtype):
    """Also those whose payload sits in the bits that rounding drops."""
    bits = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32)
    data = _native.encode(bits.view(np.float32), dtype)
    assert np.isnan(decode(np.asarray(data).reshape(-1), dtype)).all()
    assert np.isnan(_native.decode(data, dtype, len(bits))).all()


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf, 3.4e38])
@pytest.mark.parametrize("dtype", BLOCKS)
def test_special_values_stay_in_their_block(dtype, special):
    x = np.random.default_rng(8).standard_normal((1, 768)).astype(np.float32)
    clean = written(x, dtype)
    x[0, 300] = special
    row = FORMATS[dtype]
    touched = 300 // row.elements
    dirty = written(x, dtype)
    same = np.ones(768 // row.elements, bool)
    same[touched] = False
    np.testing.assert_array_equal(
        dirty.reshape(-1, row.bytes)[same], clean.reshape(-1, row.bytes)[same]
    )


@pytest.mark.parametrize("dtype", BLOCKS)
def test_part_of_a_block_is_refused(dtype):
    for k in (1, 31, 33, 255, 257):
        if k % FORMATS[dtype].elements:
            with pytest.raises(ShapeError, match=str(k)):
                _native.encode(np.ones((2, k), np.float32), dtype)


def test_what_cannot_be_written_is_refused():
    for row in _native.dtypes():
        if not row.encodable:
            with pytest.raises(DTypeError, match=row.name):
                _native.encode(np.ones((1, 256), np.float32), row.name)
    with pytest.raises(DTypeError, match="q9_z"):
        _native.encode(np.ones((1, 256), np.float32), "q9_z")
