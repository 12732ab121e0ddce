"""Native decoding gives the bits of the independent decoders, for every row of the dtype table."""

import numpy as np
import pytest

from llama_rt import _native
from llama_rt.errors import DTypeError, LlamaRtError, ShapeError
from reference.blocks import FORMATS, decode, random_bytes

NAMES = [row.name for row in _native.dtypes()]
BLOCKS = [row.name for row in _native.dtypes() if row.block_elements > 1]


def assert_same_bits(got, expected):
    """Equal bit patterns; any NaN equals any NaN."""
    assert got.dtype == expected.dtype == np.float32
    assert got.shape == expected.shape
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(got), nan)
    np.testing.assert_array_equal(got[~nan].view(np.uint32), expected[~nan].view(np.uint32))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", NAMES)
def test_random_blocks(dtype, seed):
    data = random_bytes(dtype, 1, 64 * 256, seed)
    assert_same_bits(_native.decode(data, dtype, 64 * 256), decode(data, dtype)[0])


@pytest.mark.parametrize("dtype", NAMES)
def test_arbitrary_bytes(dtype):
    """Scales may be infinite, NaN, denormal or negative: any file content decodes."""
    row = FORMATS[dtype]
    data = np.random.default_rng(7).integers(0, 256, 4096 * row.bytes, dtype=np.uint8)
    assert_same_bits(_native.decode(data, dtype, 4096 * row.elements), decode(data, dtype))


@pytest.mark.parametrize("pattern", [0x00, 0x7F, 0x80, 0xFF])
@pytest.mark.parametrize("dtype", BLOCKS)
def test_extreme_codes(dtype, pattern):
    row = FORMATS[dtype]
    blocks = np.full((4, row.bytes), pattern, np.uint8)
    for at in row.half_fields:
        blocks[:, at : at + 2] = np.array([6e-8, 1.0, -0.3, 65504], "<f2").view("u1").reshape(4, 2)
    got = _native.decode(blocks, dtype, 4 * row.elements)
    assert_same_bits(got, decode(blocks.reshape(-1), dtype))


def test_all_halves():
    data = np.arange(65536, dtype="<u2").view(np.uint8)
    assert_same_bits(_native.decode(data, "f16", 65536), decode(data, "f16"))
    assert_same_bits(_native.decode(data, "bf16", 65536), decode(data, "bf16"))


@pytest.mark.parametrize("dtype", NAMES)
def test_buffer_kinds_and_alignment(dtype):
    data = random_bytes(dtype, 1, 512, seed=3)[0]
    expected = decode(data, dtype)
    shifted = bytes(3) + data.tobytes()
    for buffer in (data.tobytes(), bytearray(data), memoryview(shifted)[3:]):
        assert_same_bits(_native.decode(buffer, dtype, 512), expected)


@pytest.mark.parametrize("dtype", NAMES)
def test_nothing_decodes_to_nothing(dtype):
    assert _native.decode(b"", dtype, 0).shape == (0,)


@pytest.mark.parametrize("dtype", NAMES)
def test_too_few_bytes_are_refused(dtype):
    data = random_bytes(dtype, 1, 512, seed=3)[0]
    with pytest.raises(ShapeError, match=r"\d"):
        _native.decode(data[:-1], dtype, 512)


@pytest.mark.parametrize("dtype", BLOCKS)
def test_part_of_a_block_is_refused(dtype):
    data = random_bytes(dtype, 1, 512, seed=3)[0]
    with pytest.raises(ShapeError):
        _native.decode(data, dtype, 255)


def test_absurd_counts_are_refused():
    for count in (-1, -256, 2**40, 2**62):
        with pytest.raises((LlamaRtError, OverflowError)):
            _native.decode(bytes(144), "q4_k", count)


def test_unknown_dtype_is_named():
    with pytest.raises(DTypeError, match="q9_z"):
        _native.decode(bytes(64), "q9_z", 32)


def test_strided_buffers_are_not_misread():
    data = np.repeat(random_bytes("q8_0", 1, 64, seed=3)[0], 2)[::2]
    try:
        got = _native.decode(data, "q8_0", 64)
    except (ValueError, TypeError, BufferError):
        return
    assert_same_bits(got, decode(data, "q8_0"))
