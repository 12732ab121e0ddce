"""Giving pages back: it must free what a file can bring back and touch nothing else."""

from __future__ import annotations

import gc
import mmap
import re
from pathlib import Path

import numpy as np
import pytest

from llama_rt import _native

SIZE = 8 << 20


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(np.random.default_rng(0).bytes(SIZE))
    return path


def resident(path):
    """KiB of the mappings of `path` that are in this process's page table."""
    kib, counting = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            counting = line.endswith(str(path))
        elif counting and line.startswith("Rss:"):
            kib += int(line.split()[1])
    return kib


@pytest.mark.linux
def test_pages_of_a_file_go_and_come_back(file):
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        view = np.frombuffer(data, np.uint8)
        total = int(view.sum(dtype=np.int64))
        assert resident(file) == SIZE >> 10
        _native.advise_dontneed(view)
        assert resident(file) == 0
        assert int(view.sum(dtype=np.int64)) == total
        del view


def test_less_than_a_page_stays(file):
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        view = np.frombuffer(data, np.uint8)
        assert view.sum(dtype=np.int64) > 0
        _native.advise_dontneed(view[100 : mmap.PAGESIZE - 100])
        _native.advise_dontneed(view[100 : mmap.PAGESIZE + 100])
        left = resident(file)
        del view
    assert left == SIZE >> 10


def test_changed_private_pages_stay(file):
    with (
        file.open("rb") as opened,
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY) as data,
    ):
        data[:SIZE] = bytes([7]) * SIZE
        view = np.frombuffer(data, np.uint8)
        _native.advise_dontneed(view)
        assert (view == 7).all()
        del view


def test_anonymous_memory_stays():
    array = np.full(SIZE, 9, np.uint8)
    _native.advise_dontneed(array)
    assert (array == 9).all()
    _native.advise_dontneed(np.zeros(0, np.uint8))


def anonymous():
    """Bytes of anonymous memory that this process holds."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Anonymous:"))


@pytest.mark.skipif(len(_native.cpu_info().tiers) < 2, reason="scalar packs nothing")
def test_packed_matrices_share_huge_pages():
    """Each of 4.25 MiB: alone it would take three huge pages."""
    dim = 2816
    model = _native.Model(
        _native.open_backend("cpu"), dim=dim, n_layers=2, n_heads=22, n_kv_heads=22, head_dim=128,
        ffn_dim=dim, vocab_size=32, norm_eps=1e-6,
    )  # fmt: skip
    matrix = np.zeros(dim * dim // 32 * 18, np.uint8)
    parts = ["attention.wq", "attention.wk", "attention.wv", "attention.wo"]
    parts += ["feed_forward.w1", "feed_forward.w2", "feed_forward.w3"]
    gc.collect()  # what earlier tests left behind would be counted against the matrices
    before = anonymous()
    for layer in range(2):
        for part in parts:
            model.add(f"layers.{layer}.{part}.weight", matrix.data, "q4_0", (dim, dim))
    packed = 2 * len(parts) * matrix.nbytes
    assert 0.95 * packed < anonymous() - before < 1.1 * packed
