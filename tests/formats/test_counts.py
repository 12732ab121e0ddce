"""Files that hold far more tensors than any model: refused before a record is made of each."""

import json
import struct
import time
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from llama_rt.checkpoint.ggml_model import open_ggml
from llama_rt.errors import CheckpointError
from llama_rt.formats.archive import read_entries
from llama_rt.formats.gguf import read_gguf
from llama_rt.formats.mapping import MappedFile
from llama_rt.formats.pth import read_pth
from llama_rt.formats.records import MAX_ITEMS
from llama_rt.formats.safetensors import read_safetensors

ENTRY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}


def safetensors(path, count):
    header = json.dumps({f"t{i}": ENTRY for i in range(count)}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def gguf(path, count):
    entry = struct.pack("<IQIQ", 1, 0, 0, 0)
    table = b"".join(struct.pack("<Q", 8) + b"%08d" % i + entry for i in range(count))
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, count, 0) + table + bytes(32))


def gguf_keys(path, count):
    table = b"".join(struct.pack("<Q", 8) + b"%08d" % i + bytes([0] * 5) for i in range(count))
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, count) + table + bytes(32))


def pickled(path, count):
    one = torch.ones(1)
    torch.save({str(i): one for i in range(count)}, path)  # the tensor itself is there once


def pickled_legacy(path, count):
    one = torch.ones(1)
    torch.save({str(i): one for i in range(count)}, path, _use_new_zipfile_serialization=False)


def archive(path, count):
    with zipfile.ZipFile(path, "w") as file:
        for i in range(count):
            file.writestr(f"{i}", b"")


def ggml(path, count):
    header = struct.pack("<4s7i", b"lmgg", 1, 32, 32, 1, 1, 32, 0) + struct.pack("<I", 0)
    tensors = b"".join(struct.pack("<4i8si", 1, 8, 0, 1, b"%08d" % i, 0) for i in range(count))
    path.write_bytes(header + tensors)


READERS = {
    safetensors: read_safetensors,
    gguf: read_gguf,
    gguf_keys: read_gguf,
    pickled: read_pth,
    pickled_legacy: read_pth,
    archive: lambda path: read_entries(MappedFile(path)),
    ggml: open_ggml,
}


@pytest.mark.parametrize("write", READERS, ids=lambda write: write.__name__)
def test_more_tensors_than_any_model_has(tmp_path, write):
    write(tmp_path / "x", MAX_ITEMS + 1)
    begin = time.monotonic()
    with pytest.raises(CheckpointError, match=rf"x: {MAX_ITEMS + 1} .*; at most {MAX_ITEMS} are"):
        READERS[write](tmp_path / "x")
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("write", READERS, ids=lambda write: write.__name__)
def test_many_are_read(tmp_path, write):
    write(tmp_path / "x", 3000)
    if write is ggml:
        with pytest.raises(CheckpointError, match="missing tensors: tok_embeddings"):
            open_ggml(tmp_path / "x")
    else:
        READERS[write](tmp_path / "x")


HEADERS = {
    "entries": b'"t":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}',
    "metadata": b'"k":"v"',
    "lists": b'"x":[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]',
    "numbers": b'"x":[1000,1000,1000,1000,1000,1000]',
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_is_not_parsed_if_it_holds_too_much(tmp_path, kind):
    item = HEADERS[kind] + b","
    for size in (31 << 20, 60 << 20):
        header = b"{" + item * (size // len(item)) + b'"e":0}'
        (tmp_path / "x").write_bytes(struct.pack("<Q", len(header)) + header)
        begin = time.monotonic()
        with pytest.raises(CheckpointError, match=r"x: a header of .*(more values|at most)"):
            read_safetensors(tmp_path / "x")
        assert time.monotonic() - begin < 1


@pytest.mark.parametrize(("kind", "item"), [(1, b"\x80"), (8, bytes(8))], ids=["i8", "texts"])
@pytest.mark.parametrize("arrays", [1, 3])
def test_arrays_of_a_gguf_file_that_hold_too_much(tmp_path, kind, item, arrays):
    count = (1 << 22) // arrays + 1
    keys = [
        struct.pack("<Q", 1) + b"%d" % i + struct.pack("<IIQ", 9, kind, count) + item * count
        for i in range(arrays)
    ]
    (tmp_path / "x").write_bytes(
        b"GGUF" + struct.pack("<IQQ", 3, 0, arrays) + b"".join(keys) + bytes(32)
    )
    with pytest.raises(
        CheckpointError, match=f"x: more than .* items in arrays.*key '{arrays - 1}"
    ):
        read_gguf(tmp_path / "x")


@pytest.mark.parametrize("save", [save_file, torch.save], ids=["safetensors", "pth"])
def test_names_that_no_message_could_show(tmp_path, save):
    save({"x" * 100_000: torch.ones(1)}, tmp_path / "x")
    read = read_safetensors if save is save_file else read_pth
    with pytest.raises(CheckpointError, match="x: a tensor name of 100000 characters") as caught:
        read(tmp_path / "x")
    assert len(str(caught.value)) < 1000
