"""The emulated device itself: what it computes, and the mistakes it must notice."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.ctypeslib import ndpointer

from emulated_device import library
from reference.blocks import decode, encode


@pytest.fixture(scope="module", params=["ascending", "descending"])
def checks(request):
    """Each check, called with arrays; the result is the fault or None."""
    loaded = library("checks", "tests/cuda/emulation/checks.cu")
    loaded.set_descending(request.param == "descending")

    def call(name, *arguments):
        function = getattr(loaded, name)
        function.restype = ctypes.c_char_p
        function.argtypes = [
            ndpointer(dtype=a.dtype, flags="C") if isinstance(a, np.ndarray) else ctypes.c_int
            for a in arguments
        ]
        fault = function(*arguments)
        return fault.decode() if fault else None

    yield call
    loaded.set_descending(0)


def halves(rng, shape, dtype):
    """Bits and values of random 16-bit floats."""
    stored = encode(rng.standard_normal(shape).astype(np.float32), dtype)
    return stored.view(np.uint16), decode(stored, dtype)


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_mma_is_the_product(checks, dtype):
    rng = np.random.default_rng(0)
    (a, x), (b, y) = halves(rng, (16, 16), dtype), halves(rng, (8, 16), dtype)
    d = rng.standard_normal((16, 8)).astype(np.float32)
    expected = d + x.astype(np.float64) @ y.T.astype(np.float64)
    assert checks("check_mma", int(dtype == "f16"), a, b, d) is None
    np.testing.assert_allclose(d, expected, rtol=0, atol=1e-5)


def test_ldmatrix_transposes(checks):
    given, got = np.arange(64, dtype=np.uint16).reshape(8, 8), np.zeros((4, 8, 8), np.uint16)
    assert checks("check_transpose", given, got) is None
    for matrix in got:
        np.testing.assert_array_equal(matrix, given.T)


def test_wgmma_is_the_product(checks):
    rng = np.random.default_rng(1)
    (a, x), (b, y) = halves(rng, (64, 16), "bf16"), halves(rng, (64, 16), "bf16")
    cores = b.reshape(8, 8, 2, 8).transpose(0, 2, 1, 3).copy()
    d = np.zeros((64, 64), np.float32)
    assert checks("check_wgmma", a, cores, d) is None
    np.testing.assert_allclose(d, x.astype(np.float64) @ y.T.astype(np.float64), rtol=0, atol=1e-5)


@pytest.mark.parametrize("threads", [32, 96, 1024])
def test_shuffles_and_barriers(checks, threads):
    x, out = np.arange(threads, dtype=np.float32), np.zeros(1, np.float32)
    assert checks("check_sum", threads, x, out) is None
    assert out[0] == x.sum()


def test_a_copy_is_there_after_its_wait(checks):
    x, out = np.arange(256, dtype=np.float32), np.zeros(256, np.float32)
    assert checks("check_copy", 1, 1, x, out) is None
    np.testing.assert_array_equal(out, np.roll(x, -4))


def test_a_missing_wait_shows(checks):
    x, out = np.arange(256, dtype=np.float32), np.zeros(256, np.float32)
    assert checks("check_copy", 0, 1, x, out) is None
    assert np.isnan(out).any()


def test_a_missing_barrier_shows(checks):
    x, out = np.arange(256, dtype=np.float32), np.zeros(256, np.float32)
    assert checks("check_copy", 1, 0, x, out) is None
    assert np.isnan(out).any()


def test_fresh_shared_memory_is_poisoned(checks):
    out = np.zeros(1, np.float32)
    assert checks("check_unset", out) is None
    assert np.isnan(out[0])


@pytest.mark.parametrize(
    ("mistake", "text"),
    [
        ("part_of_a_barrier", "ended"),
        ("two_instructions", "__shfl_xor_sync"),
        ("past_the_end", "past its end"),
        ("misaligned", "not a multiple of 16"),
        ("no_fence", "without a fence"),
        ("never_arrives", "a barrier in shared memory"),
    ],
)
def test_a_mistake_is_noticed(checks, mistake, text):
    fault = checks(f"{mistake}_fault")
    assert fault is not None
    assert text in fault


def test_what_the_kernel_before_writes_is_there_after_waiting(checks):
    out = np.zeros(64, np.float32)
    assert checks("check_follow", 0, out) is None
    np.testing.assert_array_equal(out, np.arange(64))
    assert checks("check_follow", 1, out) is None
    assert np.isnan(out[1:]).all()


@pytest.mark.parametrize(
    ("mistake", "text"),
    [
        ("early_copy", "before its source was there"),
        ("early_write", "before waiting for it"),
        ("dependent", "never waits"),
    ],
)
def test_work_before_waiting_is_noticed(mistake, text):
    """In a process of its own: a device that failed stays failed."""
    code = (
        "import ctypes; from emulated_device import library;"
        "checks = library('checks', 'tests/cuda/emulation/checks.cu');"
        f"checks.{mistake}_fault.restype = ctypes.c_char_p;"
        f"print(checks.{mistake}_fault())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert text in done.stdout, done.stderr
