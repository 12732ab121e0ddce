"""Native encoding writes the bytes of the reference encoders and never leaves its blocks."""

import numpy as np
import pytest

from llama_rt import _native
from llama_rt.errors import DTypeError, ShapeError
from reference.blocks import ENCODERS, FORMATS, decode, encode

ENCODABLE = [row.name for row in _native.dtypes() if row.encodable]
EXACT = [name for name in ENCODABLE if name in ENCODERS]
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
def test_decoding_gives_back_the_values(dtype):
    """Relative RMS error of normal values, in units of 2^-(stored bits per value).

    Plain blocks reach 1.9 to 2.5 of it, super-blocks with a searched scale 1.6 to 1.7.
    """
    x = np.random.default_rng(5).standard_normal((32, 1024)).astype(np.float32)
    back = _native.decode(_native.encode(x, dtype), dtype, x.size).reshape(x.shape)
    row = FORMATS[dtype]
    unit = {1: 2.0**-8, 32: 2.7, 256: 1.9}[row.elements]
    if row.elements > 1:
        unit *= 2.0 ** (-8 * row.bytes / row.elements)
    assert np.linalg.norm(back - x) <= unit * np.linalg.norm(x)


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
