"""What this computer offers: processor, threads, memory, bandwidth, devices or why not.

Facts only; what a model would need of them is `plan`'s. The native module reads what control groups
allow.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

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
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _native.cgroup_memory_limit("")
    return total if limit is None else min(total, limit), _native.available_memory()
