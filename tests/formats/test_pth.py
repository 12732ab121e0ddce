"""Files of torch.save against torch.load: containers, views, wrappers."""

import io
import struct
import zipfile

import numpy as np
import pytest
import torch

from formats.stored import values
from llama_rt.errors import CheckpointError, CheckpointNotFoundError
from llama_rt.formats.pth import read_pth


def saved(path, tree, *, legacy=False):
    torch.save(tree, path, _use_new_zipfile_serialization=not legacy)
    return read_pth(path)


def assert_equal(records, tensors):
    assert set(records) == set(tensors)
    for name, tensor in tensors.items():
        assert records[name].shape == tuple(tensor.shape), name
        assert np.array_equal(values(records[name]), tensor.float().numpy()), name


TENSORS = {
    "a": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "b": torch.arange(6, dtype=torch.float16),
    "c": torch.arange(8, dtype=torch.bfloat16).reshape(2, 2, 2),
    "scalar": torch.tensor(3.5),
    "empty": torch.zeros(0, 4),
}


@pytest.mark.parametrize("legacy", [False, True])
def test_types_and_shapes(tmp_path, legacy):
    assert_equal(saved(tmp_path / "x.pth", TENSORS, legacy=legacy), TENSORS)


@pytest.mark.parametrize("legacy", [False, True])
def test_views_of_one_storage(tmp_path, legacy):
    base = torch.arange(60, dtype=torch.float32).reshape(6, 10)
    tree = {
        "rows": base[2:4],
        "transposed": base.t(),
        "column": base[:, 3],
        "block": base[1:4, 2:7],
        "every other": base[::2, ::3],
        "last": base[-1, -1],
        "three axes": base.reshape(2, 3, 10).permute(2, 0, 1),
        "whole": base,
    }
    assert_equal(saved(tmp_path / "x.pth", tree, legacy=legacy), tree)


def test_views_of_two_byte_elements(tmp_path):
    base = torch.arange(63, dtype=torch.bfloat16).reshape(7, 9)
    tree = {"t": base.t(), "c": base[:, 8], "r": base[6]}
    assert_equal(saved(tmp_path / "x.pth", tree), tree)


@pytest.mark.parametrize("legacy", [False, True])
def test_module_state_with_metadata(tmp_path, legacy):
    state = torch.nn.Linear(3, 5).state_dict()
    assert state._metadata
    assert_equal(saved(tmp_path / "x.pth", state, legacy=legacy), dict(state))


def test_parameters(tmp_path):
    tree = {"p": torch.nn.Parameter(torch.randn(4, 3))}
    assert_equal(saved(tmp_path / "x.pth", tree), {"p": tree["p"].detach()})


@pytest.mark.parametrize("key", ["state_dict", "model", "module"])
def test_dictionaries_inside(tmp_path, key):
    records = saved(tmp_path / "x.pth", {key: TENSORS, "step": 5, "loss": [1.0, 2], "name": "x"})
    assert_equal(records, TENSORS)


def test_other_values_are_passed_over(tmp_path):
    tree = {"t": torch.ones(2), "n": 2**70, "neg": -5, "f": 1.5, "s": "é", "none": None,
            "flag": True, "list": [1, [2, (3,)]], "bytes": b"abc"}  # fmt: skip
    assert_equal(saved(tmp_path / "x.pth", tree), {"t": tree["t"]})


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_protocols(tmp_path, protocol):
    torch.save(TENSORS, tmp_path / "x.pth", pickle_protocol=protocol)
    assert_equal(read_pth(tmp_path / "x.pth"), TENSORS)


def test_many_tensors(tmp_path):
    """More memo entries than one byte counts."""
    tree = {f"layers.{i}.weight": torch.full((2, 2), float(i)) for i in range(700)}
    assert_equal(saved(tmp_path / "x.pth", tree), tree)


def test_types_that_cannot_be_computed_with_are_still_named(tmp_path):
    tree = {
        "d": torch.zeros(2, dtype=torch.float64),
        "i": torch.zeros(2, dtype=torch.int64),
        "f8": torch.zeros(2, dtype=torch.float8_e4m3fn),
        "u16": torch.zeros(2, dtype=torch.uint16),
        "b": torch.zeros(2, dtype=torch.bool),
    }
    found = {name: record.dtype for name, record in saved(tmp_path / "x.pth", tree).items()}
    assert found == {"d": "f64", "i": "i64", "f8": "f8_e4m3", "u16": "u16", "b": "bool"}


def test_contiguous_tensors_are_read_in_place(tmp_path):
    record = saved(tmp_path / "x.pth", TENSORS)["a"]
    assert not record.read().flags.owndata


def test_written_to_a_stream(tmp_path):
    """The folder inside the archive is then called `archive`."""
    stream = io.BytesIO()
    torch.save(TENSORS, stream)
    (tmp_path / "x.bin").write_bytes(stream.getvalue())
    assert_equal(read_pth(tmp_path / "x.bin"), TENSORS)


def test_archive_without_zip64_records(tmp_path):
    torch.save(TENSORS, tmp_path / "x.pth")
    with (
        zipfile.ZipFile(tmp_path / "x.pth") as old,
        zipfile.ZipFile(tmp_path / "y.pth", "w") as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert b"PK\x06\x06" not in (tmp_path / "y.pth").read_bytes()
    assert_equal(read_pth(tmp_path / "y.pth"), TENSORS)


def test_compressed_archive_is_refused(tmp_path):
    torch.save(TENSORS, tmp_path / "x.pth")
    with (
        zipfile.ZipFile(tmp_path / "x.pth") as old,
        zipfile.ZipFile(tmp_path / "y.pth", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name) * 100)
    with pytest.raises(CheckpointError, match="compressed"):
        read_pth(tmp_path / "y.pth")


def test_big_endian_is_refused(tmp_path):
    torch.save(TENSORS, tmp_path / "x.pth")
    with (
        zipfile.ZipFile(tmp_path / "x.pth") as old,
        zipfile.ZipFile(tmp_path / "y.pth", "w") as new,
    ):
        for name in old.namelist():
            new.writestr(name, b"big" if name.endswith("byteorder") else old.read(name))
    with pytest.raises(CheckpointError, match="big-endian"):
        read_pth(tmp_path / "y.pth")


def test_zip_without_data_pkl(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as new:
        new.writestr("hello", "world")
    with pytest.raises(CheckpointError, match=r"0 entries data\.pkl"):
        read_pth(tmp_path / "x.pth")


@pytest.mark.parametrize("keep", [0, 1, 3, 4, 30, 100, 0.3, 0.9, -1])
def test_truncated(tmp_path, keep):
    torch.save(TENSORS, tmp_path / "x.pth")
    raw = (tmp_path / "x.pth").read_bytes()
    cut = int(len(raw) * keep) if isinstance(keep, float) else keep
    (tmp_path / "x.pth").write_bytes(raw[:cut])
    with pytest.raises(CheckpointError, match=r"x\.pth"):
        read_pth(tmp_path / "x.pth")


@pytest.mark.parametrize("keep", [1, 20, 100, 0.3, 0.9, -1])
def test_truncated_legacy(tmp_path, keep):
    torch.save(TENSORS, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    raw = (tmp_path / "x.pth").read_bytes()
    cut = int(len(raw) * keep) if isinstance(keep, float) else keep
    (tmp_path / "x.pth").write_bytes(raw[:cut])
    with pytest.raises(CheckpointError, match=r"x\.pth"):
        read_pth(tmp_path / "x.pth")


def test_missing_storage(tmp_path):
    torch.save(TENSORS, tmp_path / "x.pth")
    with (
        zipfile.ZipFile(tmp_path / "x.pth") as old,
        zipfile.ZipFile(tmp_path / "y.pth", "w") as new,
    ):
        for name in old.namelist():
            if not name.endswith("/data/0"):
                new.writestr(name, old.read(name))
    with pytest.raises(CheckpointError, match="storage '0' is missing"):
        read_pth(tmp_path / "y.pth")


def test_storage_shorter_than_its_tensor(tmp_path):
    torch.save({"a": torch.arange(12.0).reshape(3, 4)}, tmp_path / "x.pth")
    with (
        zipfile.ZipFile(tmp_path / "x.pth") as old,
        zipfile.ZipFile(tmp_path / "y.pth", "w") as new,
    ):
        for name in old.namelist():
            cut = -4 if name.endswith("/data/0") else None
            new.writestr(name, old.read(name)[:cut])
    with pytest.raises(CheckpointError, match=r"reaches element 11 of a storage that holds 11"):
        read_pth(tmp_path / "y.pth")


def test_expanded_tensor_is_not_blown_up(tmp_path):
    """Stride 0: a few bytes that stand for terabytes."""
    torch.save({"a": torch.zeros(1, 1).expand(10**6, 10**6)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="storage that holds 1"):
        read_pth(tmp_path / "x.pth")


def test_directory_count_beyond_the_file(tmp_path):
    torch.save(TENSORS, tmp_path / "x.pth")
    raw = bytearray((tmp_path / "x.pth").read_bytes())
    end = raw.rfind(b"PK\x05\x06")
    raw[end + 8 : end + 12] = struct.pack("<2H", 60000, 60000)
    (tmp_path / "x.pth").write_bytes(raw)
    with pytest.raises(CheckpointError, match="cannot hold 60000 entries"):
        read_pth(tmp_path / "x.pth")


def test_no_such_file(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match="no such file"):
        read_pth(tmp_path / "x.pth")
