"""What this computer offers: processor, threads, memory, bandwidth, devices or why not.

Facts only; what a model would need of them is `plan`'s. Memory limits of containers are those of
Linux control groups, versions 1 and 2.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llama_rt import _native
from llama_rt.errors import LlamaRtError

__all__ = ["Machine", "available_memory", "inspect", "read_bandwidth"]

_BANDWIDTH_BUFFER = 2 << 30  # bytes; more than any cache, so that memory is what is measured


@dataclass(frozen=True, slots=True)
class Machine:
    """The computer, as far as this process may use it.

    Attributes:
        processor: the brand string.
        isa: the instruction-set tier that is used when none is asked for.
        tiers: every usable tier, lowest first.
        cores: CPUs in the affinity mask.
        quota: CPUs' worth of time a container may use; None without a limit.
        threads: threads that are used when no number is asked for.
        memory_total: bytes, the container's limit if it has one.
        memory_available: bytes that can be had without swapping.
        cuda: None if a CUDA device can be used, else the reason why not.
    """

    processor: str
    isa: str
    tiers: tuple[str, ...]
    cores: int
    quota: float | None
    threads: int
    memory_total: int
    memory_available: int
    cuda: str | None


def inspect() -> Machine:
    """Looks at the processor, the container's limits, the memory and the devices."""
    cpu = _native.cpu_info()
    backend = _native.open_backend("cpu")
    total, available = available_memory()
    return Machine(
        processor=cpu.model,
        isa=backend.isa,
        tiers=tuple(cpu.tiers),
        cores=cpu.cores,
        quota=cpu.quota or None,
        threads=backend.threads,
        memory_total=total,
        memory_available=available,
        cuda=_why_no_cuda(),
    )


def _why_no_cuda() -> str | None:
    try:
        _native.open_backend("cuda")
    except LlamaRtError as error:
        return str(error)
    return None


def read_bandwidth(threads: int | None = None, *, seconds: float = 1.0) -> float:
    """Bytes per second that `threads` read from memory together.

    Reads a buffer of 2 GiB, less only where not even half of the free memory is that much; the
    buffer is freed before this returns.
    """
    _, available = available_memory()
    buffer = min(_BANDWIDTH_BUFFER, available // 2)
    count = threads or _native.cpu_info().default_threads
    return _native.read_bandwidth(count, buffer, seconds)


def available_memory() -> tuple[int, int]:
    """Bytes of memory (total, available), within the limit of the container if there is one."""
    total, available = _meminfo()
    for limit, used in group_limits():
        total = min(total, limit)
        available = min(available, max(0, limit - used))
    return total, available


def _meminfo() -> tuple[int, int]:
    """`/proc/meminfo`, which counts in KiB; without it, what sysconf knows."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        table = {name: int(rest.split()[0]) << 10 for name, rest in (x.split(":") for x in lines)}
        return table["MemTotal"], table["MemAvailable"]
    except (OSError, KeyError, ValueError, IndexError):
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total, total


def group_limits(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> Iterator[tuple[int, int]]:
    """(limit, bytes in use that cannot be given back) of each control group around this process.

    Args:
        root: where the groups are mounted.
        own: the file that names this process's groups.
    """
    for folder, limit_name, usage_name in _groups(root, own):
        limit = _number(folder / limit_name)
        usage = _number(folder / usage_name)
        if limit is None or usage is None or limit >= 1 << 60:  # version 1 says "none" so
            continue
        yield limit, max(0, usage - _reclaimable(folder / "memory.stat"))


def _groups(root: Path, own: Path) -> Iterator[tuple[Path, str, str]]:
    """The memory folders from this process's group up to the root."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            top, names = root, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            top, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        folder = top / name.lstrip("/")
        while folder.is_relative_to(top):
            yield (folder, *names)
            folder = folder.parent


def _number(path: Path) -> int | None:
    """The integer in a file; None if there is no file or it says `max`."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _reclaimable(stat: Path) -> int:
    """Bytes of page cache that the kernel drops on demand."""
    try:
        rows = [line.split() for line in stat.read_text(encoding="ascii").splitlines()]
        return sum(int(value) for name, value in rows if name == "inactive_file")
    except (OSError, ValueError):
        return 0
