"""What the device decodes from stored blocks has the bits of the independent decoders."""

import ctypes

import numpy as np
import pytest

from emulated_device import library
from llama_rt import _native
from reference.blocks import decode, random_bytes

NAMES = [row.name for row in _native.dtypes()]


@pytest.mark.parametrize("dtype", NAMES)
def test_random_blocks(dtype):
    data = random_bytes(dtype, 1, 16 * 256, seed=2)
    out = np.empty(16 * 256, np.float32)
    library("blocks", "tests/cuda/blocks.cu").decode_row(
        ctypes.c_int(NAMES.index(dtype)),
        ctypes.c_void_p(data.ctypes.data),
        ctypes.c_int64(out.size),
        ctypes.c_void_p(out.ctypes.data),
    )
    expected = decode(data, dtype).reshape(-1)
    np.testing.assert_array_equal(out.view(np.uint32), expected.view(np.uint32))
