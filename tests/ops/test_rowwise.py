"""Embedding, RMSNorm, SwiGLU and rope on every level against float64."""

import numpy as np
import pytest

from llama_rt import _native
from llama_rt.errors import LlamaRtError, ShapeError
from reference import model
from reference.blocks import FORMATS, decode, random_bytes
from reference.bounds import EPS

DTYPES = [row.name for row in _native.dtypes()]
WIDTHS = [1, 7, 16, 31, 64, 100, 200, 331, 1024, 4099]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_embed_decodes_rows(backend, dtype):
    """Exact up to the contraction of a format's two or three operations: 4 ulp of the largest."""
    dims = [256, 768] if FORMATS[dtype].elements == 256 else [32, 224]
    if FORMATS[dtype].elements == 1:
        dims = [1, 50, 200]
    for dim in dims:
        data = random_bytes(dtype, 91, dim, seed=dim)
        table = decode(data, dtype).reshape(91, dim)
        tokens = np.array([0, 90, 5, 5, 44, 1, 89], np.int32)
        got = _native.op_embed(backend, data, dtype, 91, dim, tokens)
        allowed = 4 * EPS * np.abs(table).max() if FORMATS[dtype].elements > 1 else 0
        np.testing.assert_allclose(got, table[tokens], rtol=0, atol=allowed)
        assert _native.op_embed(backend, data, dtype, 91, dim, tokens[:0]).shape == (0, dim)


def test_tokens_outside_the_table_are_refused(backend):
    data = random_bytes("f16", 10, 64, seed=1)
    for token in (-1, 10, 2**31 - 1, -(2**31)):
        with pytest.raises(LlamaRtError, match=str(token)):
            _native.op_embed(backend, data, "f16", 10, 64, np.array([3, token], np.int32))
    with pytest.raises(ShapeError):
        _native.op_embed(backend, data, "f16", 11, 64, np.array([0], np.int32))


@pytest.mark.parametrize("eps", [1e-6, 1e-5, 1e-2])
def test_rms_norm(backend, eps):
    """The mean of k squares is off by eps*sqrt(k), the root halves that; a few ulp besides."""
    for k in WIDTHS:
        x, gain = normal(9, k, seed=k), normal(k, seed=k + 1)
        x[3] *= 1e-6
        x[4] *= 1e6
        x[5] = 0
        expected = model.rms_norm(x.astype(np.float64), gain.astype(np.float64), eps)
        got = _native.op_rms_norm(backend, x, gain, eps)
        np.testing.assert_allclose(got, expected, rtol=EPS * (4 + np.sqrt(k)), atol=1e-37)


def test_swiglu(backend):
    for k in WIDTHS:
        gate, up = 4 * normal(5, k, seed=k), normal(5, k, seed=k + 1)
        expected = model.swiglu(gate.astype(np.float64), up.astype(np.float64))
        got = _native.op_swiglu(backend, gate, up)
        np.testing.assert_allclose(got, expected, rtol=16 * EPS, atol=1e-36)


def test_swiglu_far_out(backend):
    """exp neither overflows nor loses its digits at the ends: no NaN, no infinity, right limits.

    An exponential that stops growing at e^88 leaves 6e-39 of a gate far below zero.
    """
    gate = np.array([[0, -0.0, 20, -20, 87, -87, 89, -89, 104, -104, 1e4, -1e4, 3e38, -3e38]])
    gate = gate.astype(np.float32)
    got = _native.op_swiglu(backend, gate, np.ones_like(gate))
    wide = gate.astype(np.float64)
    expected = wide * np.exp(-np.logaddexp(0, -wide))
    assert (np.abs(got - expected) <= 16 * EPS * np.abs(expected) + 7e-39 * np.abs(wide)).all()


@pytest.mark.parametrize("style", ["interleaved", "halves"])
def test_rope(backend, style):
    for heads, width in ((1, 2), (3, 10), (4, 16), (5, 40), (2, 64), (8, 128), (2, 80)):
        cos, sin = normal(50, width // 2, seed=1), normal(50, width // 2, seed=2)
        x = normal(7, heads, width, seed=3)
        positions = np.array([0, 49, 3, 3, 17, 1, 30], np.int32)
        expected = model.rotate(
            x.astype(np.float64),
            cos.astype(np.float64)[positions],
            sin.astype(np.float64)[positions],
            style,
        )
        got = _native.op_rope(backend, x, positions, cos, sin, style)
        np.testing.assert_allclose(got, expected, rtol=0, atol=3 * EPS * 16)
        assert _native.op_rope(backend, x[:0], positions[:0], cos, sin, style).shape[0] == 0


def test_rope_keeps_lengths_and_position_zero(backend):
    config = model.Config(head_dim=64)
    cos, sin = (t.astype(np.float32) for t in model.rope_tables(config, 100))
    x = normal(2, 4, 64)
    for style in ("interleaved", "halves"):
        got = _native.op_rope(backend, x, np.array([0, 99], np.int32), cos, sin, style)
        np.testing.assert_array_equal(got[0], x[0])
        lengths = np.linalg.norm(got, axis=-1)
        np.testing.assert_allclose(lengths, np.linalg.norm(x, axis=-1), rtol=1e-6)


def test_rope_refuses_positions_outside_its_table(backend):
    cos = sin = np.ones((10, 8), np.float32)
    for position in (-1, 10):
        with pytest.raises(LlamaRtError):
            _native.op_rope(
                backend, normal(1, 2, 16), np.array([position], np.int32), cos, sin, "halves"
            )


def test_mismatched_shapes_are_refused(backend):
    with pytest.raises(ShapeError):
        _native.op_rms_norm(backend, normal(2, 8), normal(7), 1e-5)
    with pytest.raises(ShapeError):
        _native.op_swiglu(backend, normal(2, 8), normal(2, 7))
    with pytest.raises(ShapeError):
        _native.op_rope(
            backend, normal(2, 1, 8), np.zeros(3, np.int32), normal(4, 4), normal(4, 4), "halves"
        )


def test_row_ops_ignore_threads_and_neighbours(opened, level):
    x, up, gain = normal(33, 331), normal(33, 331, seed=1), normal(331, seed=2)
    for op in (
        lambda b, i: _native.op_rms_norm(b, x[i], gain, 1e-5),
        lambda b, i: _native.op_swiglu(b, x[i], up[i]),
    ):
        everything = op(opened(level, 1), slice(None))
        for threads in (2, 3):
            np.testing.assert_array_equal(op(opened(level, threads), slice(None)), everything)
        for i in (0, 1, 17, 32):
            np.testing.assert_array_equal(
                op(opened(level, 2), slice(i, i + 1)), everything[i][None]
            )
