"""The hardware: memory within a container's limits, and the facts of `inspect`."""

from __future__ import annotations

import os

import pytest

from llama_rt import BackendUnavailable, _native, hardware


def test_the_limit_of_a_container_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit, total in ((None, whole), (600, 600), (2 * whole, whole)):
        monkeypatch.setattr(_native, "cgroup_memory_limit", lambda _, limit=limit: limit)
        assert hardware.available_memory()[0] == total


def test_memory_of_this_machine() -> None:
    total, available = hardware.available_memory()
    assert 0 < available <= total <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_inspect_agrees_with_the_native_module() -> None:
    found = hardware.inspect()
    cpu = _native.cpu_info()
    assert found.tiers == tuple(cpu.tiers)
    assert found.isa in found.tiers
    assert found.cores == len(os.sched_getaffinity(0))
    assert found.threads == cpu.default_threads
    if found.cuda is not None:
        with pytest.raises(BackendUnavailable) as caught:
            _native.open_backend("cuda")
        assert found.cuda in str(caught.value)
