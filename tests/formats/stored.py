"""Stored values as float32, by other means than the package's own decoders."""

import gguf
import numpy as np

_GGUF_IDS = {
    "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "q2_k": 10, "q3_k": 11, "q4_k": 12,
    "q5_k": 13, "q6_k": 14, "iq4_nl": 20, "iq4_xs": 23,
}  # fmt: skip


def values(record) -> np.ndarray:
    """Float32 of a record's shape."""
    raw = record.read()
    assert raw.dtype == np.uint8
    assert raw.ndim == 1
    assert raw.flags.c_contiguous
    assert raw.nbytes == record.nbytes
    if record.dtype == "f32":
        flat = raw.view(np.float32)
    elif record.dtype == "f16":
        flat = raw.view(np.float16).astype(np.float32)
    elif record.dtype == "bf16":
        flat = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        kind = gguf.GGMLQuantizationType(_GGUF_IDS[record.dtype])
        flat = gguf.quants.dequantize(raw.reshape(record.shape[0], -1), kind)
    return flat.reshape(record.shape)


def assert_same(checkpoint, weights, *, rounded=None) -> None:
    """Every tensor of `weights`, bit for bit (after `rounded`, if stored in less), and no other."""
    assert set(checkpoint.tensors) == set(weights)
    for name, expected in weights.items():
        record = checkpoint.tensors[name]
        assert record.name == name
        assert record.shape == expected.shape
        assert np.array_equal(values(record), rounded(expected) if rounded else expected), name
