"""Sampling on the emulated device draws the host sampler's tokens."""

import ctypes
from itertools import product

import numpy as np
import pytest

from emulated_device import library

SOURCES = [
    "csrc/cuda/kernels/sample.cu",
    *(f"csrc/sampling/{name}.cpp" for name in ("sampler", "scan", "filters")),
    "tests/cuda/sample.cu",
]


class Settings(ctypes.Structure):
    _fields_ = (
        ("temperature", ctypes.c_float),
        ("top_k", ctypes.c_int32),
        *((name, ctypes.c_float) for name in ("top_p", "min_p")),
        ("seed", ctypes.c_uint64),
    )


def draw_both(logits, settings, draws=1):
    """Tokens `[draws, rows]` of the host and of the device for logits `[rows, vocab]`."""
    logits = np.ascontiguousarray(logits, np.float32)
    rows, vocab = logits.shape
    host, device = (np.full((draws, rows), -9, np.int32) for _ in range(2))
    function = library("sample", *SOURCES).draw_both
    function.restype = ctypes.c_char_p
    fault = function(
        *((Settings * rows)(*settings), ctypes.c_int64(rows), ctypes.c_int64(vocab)),
        *(logits.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(draws)),
        *(a.ctypes.data_as(ctypes.c_void_p) for a in (host, device)),
    )
    assert fault is None, fault.decode()
    return host, device


GRID = [
    Settings(t, k, p, m, seed)
    for seed, (t, k, p, m) in enumerate(
        product((0.0, 0.4, 0.8, 3.0), (0, 1, 40), (1.0, 0.95, 0.3, 0.0), (0.0, 0.05))
    )
]


@pytest.mark.parametrize("vocab", [1, 7, 128, 513, 32000])
@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_draws_the_hosts_tokens(vocab, spread):
    grid = GRID if vocab < 1000 else GRID[::5]
    logits = np.random.default_rng(vocab).normal(0, spread, (len(grid), vocab))
    host, device = draw_both(logits, grid, draws=3)
    np.testing.assert_array_equal(host, device)


def test_a_vocabulary_beyond_shared_memory():
    logits = np.random.default_rng(3).normal(0, 2, (3, 70000))
    settings = [Settings(1, 0, 1, 0, 1), Settings(0.7, 0, 0.9, 0, 2), Settings(1, 500, 0.8, 0, 3)]
    host, device = draw_both(logits, settings)
    np.testing.assert_array_equal(host, device)


def test_equal_scores_rank_by_id():
    logits = np.zeros((len(GRID), 300))
    logits[:, 100:200] = 1
    host, device = draw_both(logits, GRID, draws=4)
    np.testing.assert_array_equal(host, device)
    greedy = [i for i, s in enumerate(GRID) if s.temperature == 0]
    assert (device[:, greedy] == 100).all()


def test_scores_that_are_no_numbers():
    rng = np.random.default_rng(4)
    logits = rng.normal(0, 2, (len(GRID), 200))
    logits[:, rng.permutation(200)[:60]] = np.nan
    logits[:, rng.permutation(200)[:60]] = -np.inf
    logits[::3, 7] = np.inf
    host, device = draw_both(logits, GRID, draws=2)
    np.testing.assert_array_equal(host, device)


def test_nothing_to_draw():
    settings = [Settings(0, 0, 1, 0, 0), Settings(1, 5, 0.9, 0, 0)]
    host, device = draw_both(np.full((2, 40), np.nan), settings)
    assert (host == -1).all()
    assert (device == -1).all()
