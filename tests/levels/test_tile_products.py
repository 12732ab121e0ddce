"""The matmul kernels of the amx level, with the matrix unit's instructions done by `tiles.h`."""

import ctypes
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from emulated_device import linked
from emulated_levels import compile_all, compile_level, missing
from llama_rt import _native
from reference.blocks import FORMATS, decode, random_bytes
from reference.bounds import dot, matmul

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
KERNELS = CSRC / "cpu" / "kernels"
# Without the types that no level packs: they are decoded when they are multiplied.
DECODED = ("iq1", "iq2", "iq3", "tq", "mxfp4", "q8_1", "q8_k")
DTYPES = [name for name in FORMATS if not name.startswith(DECODED)]
SPLIT = {"f32", "f16"}  # multiplied as sums of two bfloat16
WITH_MINS = {"q4_1", "q5_1", "q2_k", "q4_k", "q5_k"}
WIDTHS = {  # k: one tile or less, an odd number of tiles, several K-blocks
    1: [1, 31, 33, 256, 1031, 2080],
    32: [32, 224, 1056, 2080],
    256: [256, 1280, 2304],
}


@pytest.fixture(scope="session")
def library():
    if missing():
        pytest.skip(missing())
    packing = [KERNELS / "gemm" / f"pack_{kind}.cpp" for kind in ("float", "quantized")]
    tiles = [*sorted((KERNELS / "x86" / "amx").glob("*.cpp")), HERE / "product.cpp"]
    sources = [compile_level("avx2", source) for source in packing]
    sources += [compile_level("amx", source) for source in tiles]
    sources.append((CSRC / "cpu" / "kernel_table.cpp", ()))
    return ctypes.CDLL(str(linked("products", compile_all(sources))))


@pytest.fixture
def product(library):
    numbers = {row.name: i for i, row in enumerate(_native.dtypes())}

    def run(dtype, data, x, *, bias=None, onto=None, parts=1, padding=3):
        """`x [n, k]` times stored rows; what lies between the rows of the result must stay."""
        rows, n = len(data), len(x)
        x = np.ascontiguousarray(x, np.float32)
        data = np.ascontiguousarray(data).view(np.uint8).reshape(rows, -1)
        out = np.full((n, rows + padding), 1234.5, np.float32)
        if onto is not None:
            out[:, :rows] = onto
        pointer = ctypes.c_void_p
        released = library.product(
            ctypes.c_int(numbers[dtype]),
            pointer(data.ctypes.data),
            ctypes.c_int64(data.shape[1]),
            ctypes.c_int64(rows),
            ctypes.c_int64(x.shape[1]),
            pointer(x.ctypes.data),
            ctypes.c_int64(n),
            pointer(None if bias is None else bias.ctypes.data),
            ctypes.c_bool(onto is not None),
            ctypes.c_int64(parts),
            pointer(out.ctypes.data),
            ctypes.c_int64(out.shape[1]),
        )
        assert released & 1, "the tiles were not released"
        assert (out[:, rows:] == 1234.5).all()
        return out[:, :rows]

    return run


def bf16(values):
    """Float32 rounded to bfloat16, to nearest even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) & np.uint64(0xFFFF0000)
    return bits.astype(np.uint32).view(np.float32)


@cache
def task(dtype, rows, k, n):
    data = random_bytes(dtype, rows, k, seed=rows + k)
    w = decode(data, dtype).reshape(rows, k)
    rng = np.random.default_rng(k + n)
    x = rng.standard_normal((n, k)).astype(np.float32)
    x *= np.exp(rng.standard_normal((1, k)) * 0.5).astype(np.float32)
    return data, w, x


def allowed(dtype, x, w):
    """Float32 sums; with a min a few weights may be rounded to the other side of a tie."""
    room = dot(x, w)
    if dtype in WITH_MINS:
        room = room + 2.0**-8 * np.abs(x).max() * np.abs(w).max() * 2
    return room


def parts(values):
    """What two bfloat16 hold of float32 values."""
    high = bf16(values)
    return high.astype(np.float64), bf16(values - high).astype(np.float64)


def rounded_product(dtype, x, w):
    """`x @ w.T` of operands as tiles hold them."""
    (x_high, x_low), (w_high, w_low) = parts(x), parts(w)
    if dtype in SPLIT:
        return x_high @ (w_high + w_low).T + x_low @ w_high.T
    return x_high @ w_high.T


def check(dtype, got, x, w, extra=0.0):
    """Against the product of rounded operands, and within the bounds of any kernel."""
    outer = matmul(x, w, dtype) + np.finfo(np.float32).eps * np.abs(extra)
    exact = x.astype(np.float64) @ w.astype(np.float64).T + extra
    if dtype not in SPLIT or x.shape[1] >= 256:  # of split ones only wide products are made
        assert (np.abs(got - exact) <= outer).all()
    expected = rounded_product(dtype, x, w) + extra
    x, w = x.astype(np.float64), w.astype(np.float64)
    room = allowed(dtype, x, w) + np.finfo(np.float32).eps * np.abs(extra)
    excess = np.abs(got - expected) - room
    assert np.isfinite(got).all()
    assert not (excess > 0).any(), f"{excess.max()} too much at {np.argwhere(excess > 0)[0]}"


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_weight_is_its_value_rounded_once(product, dtype):
    """Inputs that are all zero but one 1 read the weights out, every code of every scale."""
    rows, k = 80, 1280
    data, w, _ = task(dtype, rows, k, 1)
    got = product(dtype, data, np.eye(k, dtype=np.float32)).T
    if dtype in WITH_MINS:
        largest = np.abs(w).reshape(rows, -1, 32).max(axis=2).repeat(32, axis=1)
        room = np.abs(bf16(w) - w) + 2.0**-15 * largest + 1e-30
        np.testing.assert_array_less(np.abs(got - w), room)
    elif dtype in SPLIT:
        np.testing.assert_array_equal(got, np.float32(sum(parts(w))))
    else:
        np.testing.assert_array_equal(got, bf16(w))


@pytest.mark.parametrize("n", [1, 16, 17, 48, 300])
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_size(product, dtype, n):
    for k in WIDTHS[FORMATS[dtype].elements]:
        for rows in (1, 16, 45, 443):
            data, w, x = task(dtype, rows, k, n)
            check(dtype, product(dtype, data, x), x, w)


@pytest.mark.parametrize("dtype", ["bf16", "f16", "q4_0", "q4_k", "q3_k"])
def test_bits_depend_neither_on_the_split_nor_on_company(product, dtype):
    rows, k = 443, WIDTHS[FORMATS[dtype].elements][-1]
    data, _, x = task(dtype, rows, k, 530)  # more than one GEMM
    whole = product(dtype, data, x)
    for parts in (2, 3, 7):
        np.testing.assert_array_equal(product(dtype, data, x, parts=parts), whole)
    for n in (1, 20, 33, 256, 257, 513):
        np.testing.assert_array_equal(product(dtype, data, x[:n]), whole[:n])


@pytest.mark.parametrize("dtype", ["bf16", "f32", "q8_0", "q6_k"])
def test_bias_and_accumulation(product, dtype):
    rng = np.random.default_rng(1)
    for rows, k in ((45, 256), (33, 2304)):
        data, w, x = task(dtype, rows, k, 37)
        bias = rng.standard_normal(rows).astype(np.float32)
        onto = rng.standard_normal((37, rows)).astype(np.float32)
        check(dtype, product(dtype, data, x, bias=bias), x, w, bias)
        check(dtype, product(dtype, data, x, onto=onto), x, w, onto)
        check(dtype, product(dtype, data, x, bias=bias, onto=onto), x, w, bias + onto)


@pytest.mark.parametrize("dtype", ["bf16", "f32", "q4_0", "q5_k"])
def test_a_spoilt_row_spoils_only_itself(product, dtype):
    data, _, x = task(dtype, 45, 1280, 37)
    clean = product(dtype, data, x)
    spoilt = x.copy()
    spoilt[5, 7] = np.nan
    spoilt[20, 1030] = np.inf
    got = product(dtype, data, spoilt)
    others = np.delete(np.arange(37), [5, 20])
    np.testing.assert_array_equal(got[others], clean[others])
    assert np.isnan(got[5]).all()
    assert not np.isfinite(got[20]).any()
