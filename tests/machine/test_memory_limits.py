"""What the machine offers: memory within a container's limits, and the facts of `inspect`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llama_rt import BackendUnavailable, _native, machine


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def own(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "self"
    path.write_text(text)
    return path


def test_version_2_reads_every_group_up_to_the_root(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    group(root / "pod", memory__max=1000, memory__current=300, memory__stat="inactive_file 100")
    group(root / "pod" / "box", memory__max="max", memory__current=200)
    group(root / "pod" / "box" / "app", memory__max=500, memory__current=50)
    found = list(machine.group_limits(root, own(tmp_path, "0::/pod/box/app\n")))
    assert found == [(500, 50), (1000, 200)]


def test_version_1_knows_no_limit_by_a_huge_one(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    memory = root / "memory"
    group(memory, memory__limit_in_bytes=9223372036854771712, memory__usage_in_bytes=5)
    group(
        memory / "docker" / "x",
        memory__limit_in_bytes=4096,
        memory__usage_in_bytes=1024,
        memory__stat="cache 7\ninactive_file 24",
    )
    text = "12:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n"
    assert list(machine.group_limits(root, own(tmp_path, text))) == [(4096, 1000)]


def test_no_groups_no_limits(tmp_path: Path) -> None:
    assert list(machine.group_limits(tmp_path, tmp_path / "missing")) == []
    assert list(machine.group_limits(tmp_path, own(tmp_path, "0::/gone\n"))) == []


def test_the_smallest_room_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_meminfo", lambda: (1000, 800))
    monkeypatch.setattr(machine, "group_limits", lambda: iter([(600, 100), (900, 700)]))
    assert machine.available_memory() == (600, 200)
    monkeypatch.setattr(machine, "group_limits", lambda: iter([(50, 70)]))
    assert machine.available_memory() == (50, 0)


def test_memory_of_this_machine() -> None:
    total, available = machine.available_memory()
    assert 0 < available <= total <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_inspect_agrees_with_the_native_module() -> None:
    found = machine.inspect()
    cpu = _native.cpu_info()
    assert found.tiers == tuple(cpu.tiers)
    assert found.isa in found.tiers
    assert found.cores == len(os.sched_getaffinity(0))
    assert found.threads == cpu.default_threads
    if found.cuda is not None:
        with pytest.raises(BackendUnavailable) as caught:
            _native.open_backend("cuda")
        assert str(caught.value) == found.cuda
