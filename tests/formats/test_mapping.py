"""Mapped files: bounds, read-only views, and pages that go when a tensor is dropped."""

import gc
import hashlib
import signal
from pathlib import Path

import numpy as np
import pytest

from llama_rt import _native
from llama_rt.errors import CheckpointError, CheckpointNotFoundError
from llama_rt.formats.dtypes import STORED
from llama_rt.formats.mapping import MappedFile


def resident_file_bytes() -> int:
    with Path("/proc/self/status").open() as status:
        line = next(line for line in status if line.startswith("RssFile"))
    return int(line.split()[1]) * 1024


def test_view_is_the_file(tmp_path):
    (tmp_path / "x").write_bytes(bytes(range(256)))
    file = MappedFile(tmp_path / "x")
    assert file.size == 256
    assert file.view(3, 5, "it").tolist() == [3, 4, 5, 6, 7]
    assert file.view(256, 0, "nothing").size == 0
    assert not file.view(0, 4, "it").flags.writeable


@pytest.mark.parametrize(("offset", "length"), [(-1, 4), (0, 257), (256, 1), (300, 0), (0, -1),
                                                (2**62, 2**62)])  # fmt: skip
def test_bounds(tmp_path, offset, length):
    (tmp_path / "x").write_bytes(bytes(256))
    with pytest.raises(CheckpointError, match=r"tensor 'a' needs .* of 256 bytes"):
        MappedFile(tmp_path / "x").view(offset, length, "tensor 'a'")


def test_missing_and_empty(tmp_path):
    with pytest.raises(CheckpointNotFoundError):
        MappedFile(tmp_path / "x")
    (tmp_path / "x").touch()
    with pytest.raises(CheckpointError, match="empty"):
        MappedFile(tmp_path / "x")


def test_view_outlives_the_file_object_and_the_name(tmp_path):
    (tmp_path / "x").write_bytes(b"abcd" * 5000)
    view = MappedFile(tmp_path / "x").view(4, 8, "it")
    (tmp_path / "x").unlink()
    gc.collect()
    assert view.tobytes() == b"abcdabcd"


def test_dropped_tensors_give_their_pages_back(tmp_path):
    size = 64 << 20
    (tmp_path / "x").write_bytes(np.ones(size, np.uint8).tobytes())
    file = MappedFile(tmp_path / "x")
    before = resident_file_bytes()
    whole = file.view(1000, size - 2000, "it")
    part = whole[size // 2 :].view(np.uint16)
    assert int(whole.sum()) == size - 2000
    assert resident_file_bytes() - before > size // 2
    del whole
    assert resident_file_bytes() - before > size // 2  # a view of it is still alive
    assert int(part[:10].sum()) == 257 * 10
    del part
    file.view(0, 8, "the next")
    assert resident_file_bytes() - before < size // 8


def test_ctrl_c_while_native_code_holds_the_last_view_is_raised(tmp_path):
    """It is met by the first Python code after the call, which must not be one that drops it."""
    (tmp_path / "x").write_bytes(bytes(64 << 20))
    file = MappedFile(tmp_path / "x")

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            signal.setitimer(signal.ITIMER_REAL, 0.005)
            for _ in range(3):
                hashlib.sha256(file.view(0, file.size, "it"))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_table_of_types_agrees_with_the_native_one():
    native = {row.name: row for row in _native.dtypes()}
    ours = {row.name: row for row in STORED.values() if row.runs}
    assert set(native) == set(ours)
    for name, row in ours.items():
        found = (native[name].block_elements, native[name].block_bytes, native[name].gguf_id)
        assert found == (row.block_elements, row.block_bytes, row.gguf_id)
