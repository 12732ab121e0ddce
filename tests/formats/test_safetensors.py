"""safetensors files: against the library, and headers that lie."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from formats.stored import values
from llama_rt.errors import CheckpointError
from llama_rt.formats.safetensors import read_safetensors


def write(path, header, data=b"", *, length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_what_the_library_wrote(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        "a": rng.standard_normal((3, 5), np.float32),
        "b": rng.standard_normal(7).astype(np.float16),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 4), np.float32),
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    file = read_safetensors(tmp_path / "x.safetensors")
    assert file.metadata == {"format": "pt"}
    assert set(file.tensors) == set(tensors)
    for name, expected in tensors.items():
        assert np.array_equal(values(file.tensors[name]), expected)
        assert file.tensors[name].shape == expected.shape


def test_no_tensors_at_all(tmp_path):
    assert read_safetensors(write(tmp_path / "x", {})).tensors == {}


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b"not json", b"", "not valid JSON"),
        (b"\xff\xfe", b"", "not valid JSON"),
        (b"[" * 100_000, b"", "not valid JSON"),
        (b"[]", b"", "not a JSON object"),
        (b'{"a": 1}', b"", "not an object"),
        (b'{"__metadata__": 5}', b"", "__metadata__"),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
         b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4), "twice"),
        ({"a": entry(dtype="Q7")}, bytes(8), "unknown type 'Q7'"),
        ({"a": entry(dtype=["F32"])}, bytes(8), "unknown type"),
        ({"a": entry(shape=(3,))}, bytes(8), r"needs 12 bytes, but 8 are stored"),
        ({"a": entry(shape=(-2,))}, bytes(8), "shape"),
        ({"a": entry(shape=(2.0,))}, bytes(8), "shape"),
        ({"a": entry(shape=(True, 2))}, bytes(8), "shape"),
        ({"a": entry(shape=(2**40, 2**40))}, bytes(8), "needs"),
        ({"a": {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}}, bytes(8), "shape"),
        ({"a": entry(offsets=(0, 8, 9))}, bytes(8), "data_offsets"),
        ({"a": entry(offsets=(8, 0))}, bytes(8), "before it begins"),
        ({"a": entry(offsets=(-8, 0))}, bytes(8), "data_offsets"),
        ({"a": entry(offsets=(0, 8))}, bytes(7), r"'a' needs 8 bytes at offset \d+, but 7 of them"),
        ({"a": entry(offsets=(4, 12))}, bytes(12), "where 0 was expected"),
        ({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12), "where 8 was expected"),
        ({"a": entry()}, bytes(9), "tensors end at byte"),
    ],
)  # fmt: skip
def test_headers_that_lie(tmp_path, header, data, message):
    path = write(tmp_path / "x.safetensors", header, data)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_safetensors(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**6])
def test_header_length_beyond_the_file(tmp_path, length):
    with pytest.raises(CheckpointError, match=f"the header needs {length} bytes"):
        read_safetensors(write(tmp_path / "x", {}, length=length))


@pytest.mark.parametrize("size", [0, 1, 7])
def test_shorter_than_a_length(tmp_path, size):
    (tmp_path / "x").write_bytes(bytes(size))
    with pytest.raises(CheckpointError):
        read_safetensors(tmp_path / "x")
