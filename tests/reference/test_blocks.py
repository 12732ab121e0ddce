"""The independent decoders and encoders against the gguf package, bit for bit."""

import numpy as np
import pytest

from reference.blocks import ENCODERS, FORMATS, decode, encode, random_bytes

BLOCK_FORMATS = [name for name, row in FORMATS.items() if row.elements > 1]


def gguf_type(dtype):
    import gguf

    return gguf.GGMLQuantizationType[dtype.upper()]


@pytest.mark.parametrize("dtype", FORMATS)
def test_sizes_and_ids_are_ggufs(dtype):
    import gguf

    row = FORMATS[dtype]
    if dtype != "q8_1":  # the package still has its size of 2023, with float32 scales
        assert gguf.GGML_QUANT_SIZES[gguf_type(dtype)] == (row.elements, row.bytes)
    assert gguf_type(dtype) == row.gguf_id


@pytest.mark.parametrize("dtype", [d for d in FORMATS if d not in ("q8_1", "q8_k")])
def test_decodes_as_gguf_does(dtype):
    import gguf

    data = random_bytes(dtype, 8, 1024, seed=1)
    expected = gguf.quants.dequantize(data if dtype != "f32" else data.view("f4"), gguf_type(dtype))
    got = decode(data, dtype)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got.view(np.uint32), expected.astype("f4").view(np.uint32))


@pytest.mark.parametrize("dtype", FORMATS)
def test_random_blocks_look_like_weights(dtype):
    for spread in (1.0, 0.25):
        values = decode(random_bytes(dtype, 64, 1024, seed=1, spread=spread), dtype)
        assert values.std() * np.sqrt(1024) == pytest.approx(spread, rel=0.15)
        assert abs(values.mean()) < 0.1 * values.std()


@pytest.mark.parametrize("dtype", ["bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0"])
def test_encodes_as_gguf_does(dtype):
    import gguf

    x = np.random.default_rng(2).standard_normal((64, 1024)).astype(np.float32)
    x[0, :64] = 0
    x[1, :32] = 0.75
    np.testing.assert_array_equal(encode(x, dtype), gguf.quants.quantize(x, gguf_type(dtype)))


@pytest.mark.parametrize("dtype", ENCODERS)
def test_round_trip_is_within_half_a_step(dtype):
    x = np.random.default_rng(3).uniform(-1, 1, (16, 256)).astype(np.float32)
    step = {"q4_0": 1 / 8, "q4_1": 2 / 15, "q5_0": 1 / 16, "q5_1": 2 / 31, "q8_0": 1 / 127}
    # Q4_0 and Q5_0 have no code for the far end of the other sign: a whole step there.
    width = {"q4_0": 1.0, "q5_0": 1.0}.get(dtype, 0.5)
    # Scale and minimum are themselves rounded to half precision: 2^-11 of a value each.
    bound = width * step.get(dtype, 2**-8) + 2**-10
    assert np.abs(decode(encode(x, dtype), dtype) - x).max() <= bound
