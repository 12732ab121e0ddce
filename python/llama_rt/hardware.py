"""The hardware: processor, threads, memory, bandwidth, devices or why they cannot be used.

Facts, and the function that opens a device; what a model needs is estimated in `memory`. The native
module reads what control groups allow.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping
from dataclasses import dataclass

from llama_rt import _native
from llama_rt.errors import ConfigError

__all__ = [
    "Gpu",
    "Hardware",
    "available_memory",
    "free_memory",
    "gpu_of",
    "inspect",
    "isa_names",
    "open_backend",
    "read_bandwidth",
]

_MAX_THREADS = 4096
_BANDWIDTH_BUFFER = 2 << 30  # bytes; more than any cache, so that memory is what is measured


@dataclass(frozen=True, slots=True)
class Gpu:
    """A device that the CUDA driver shows.

    Attributes:
        name: its model.
        capability: compute capability, such as `"9.0"`.
        memory_total: bytes.
        memory_free: bytes that are not in use now.
        bandwidth: bytes per second that its memory's clock and width allow.
        multiply_rate: multiply-adds per second of its tensor cores in bf16, as clocked.
        reason: why it cannot be used; None: it can.
    """

    name: str
    capability: str
    memory_total: int
    memory_free: int
    bandwidth: float
    multiply_rate: float
    reason: str | None


@dataclass(frozen=True, slots=True)
class Hardware:
    """The computer, as far as this process may use it.

    Attributes:
        processor: the brand string.
        isa: the ISA level that is used when none is asked for.
        tiers: every usable ISA level, lowest first.
        unused_tiers: levels that the processor has and that are not used, with the reason.
        missing_levels: those of them that were left out of this build.
        cores: CPUs in the affinity mask.
        quota: CPUs' worth of time a container may use; None without a limit.
        threads: threads that are used when no number is asked for.
        memory_total: bytes, the container's limit if it has one.
        memory_available: bytes that can be had without swapping.
        cuda: None if a CUDA device can be used, else the reason why not.
        gpus: CUDA devices, usable or not, in the driver's order.
    """

    processor: str
    isa: str
    tiers: tuple[str, ...]
    unused_tiers: Mapping[str, str]
    missing_levels: tuple[str, ...]
    cores: int
    quota: float | None
    threads: int
    memory_total: int
    memory_available: int
    cuda: str | None
    gpus: tuple[Gpu, ...] = ()


def open_backend(
    device: str,
    *,
    isa: str | None = None,
    threads: int | None = None,
    reproducible: bool = False,
) -> _native.Backend:
    """Opens a device; the arguments are those of `Llama.load`.

    Raises:
        BackendUnavailable: The device was named and cannot be used; says why.
        ConfigError: A name is unknown, or `threads` out of range.
        TypeError: An argument has the wrong type; names it.
    """
    wrong = None
    if not isinstance(device, str):
        wrong = ("device", "a str", device)
    elif isa is not None and not isinstance(isa, str):
        wrong = ("isa", "a str or None", isa)
    elif not isinstance(reproducible, bool):
        wrong = ("reproducible", "a bool", reproducible)
    elif threads is not None and (isinstance(threads, bool) or not hasattr(threads, "__index__")):
        wrong = ("threads", "an int or None", threads)
    if wrong:
        msg = f"{wrong[0]}: expected {wrong[1]}, got {type(wrong[2]).__name__}"
        raise TypeError(msg)
    if isa == "":
        msg = "isa: expected the name of an ISA level or None, got an empty string"
        raise ConfigError(msg)
    count = None if threads is None else operator.index(threads)
    if count is not None and not 1 <= count <= _MAX_THREADS:
        msg = f"threads: expected an int from 1 to {_MAX_THREADS}, got {count}"
        raise ConfigError(msg)
    return _native.open_backend(device, isa=isa, threads=count, reproducible=reproducible)


def isa_names() -> tuple[str, ...]:
    """Every ISA level of this architecture, lowest first, usable here or not."""
    return tuple(_native.isa_names())


def inspect() -> Hardware:
    """Looks at the processor, the container's limits, the memory and the devices."""
    cpu = _native.cpu_info()
    backend = _native.open_backend("cpu")
    total, available = available_memory()
    gpus, reason = _gpus()
    return Hardware(
        processor=cpu.model,
        isa=backend.isa,
        tiers=tuple(cpu.tiers),
        unused_tiers=cpu.unused_tiers,
        missing_levels=tuple(cpu.missing_levels),
        cores=cpu.cores,
        quota=cpu.quota or None,
        threads=backend.threads,
        memory_total=total,
        memory_available=available,
        cuda=reason,
        gpus=gpus,
    )


def _gpus() -> tuple[tuple[Gpu, ...], str | None]:
    """All devices, and why none of them can be used."""
    devices, reason = _native.cuda_devices()
    gpus = tuple(
        Gpu(
            name=d.name,
            capability=".".join(map(str, d.capability)),
            memory_total=d.memory_bytes,
            memory_free=d.free_bytes,
            bandwidth=d.bandwidth,
            multiply_rate=d.multiply_rate,
            reason=d.reason or None,
        )
        for d in devices
    )
    if any(gpu.reason is None for gpu in gpus):
        return gpus, None
    return gpus, reason or "; ".join(gpu.reason for gpu in gpus if gpu.reason)


def gpu_of(device: str) -> Gpu | None:
    """The device that an open backend's name (`"cuda:0"`) means; None for the CPU."""
    if not device.startswith("cuda:"):
        return None
    return _gpus()[0][int(device.removeprefix("cuda:"))]


def free_memory(device: str) -> int:
    """Bytes that can be had now for weights and cache on an open backend's device."""
    gpu = gpu_of(device)
    return available_memory()[1] if gpu is None else gpu.memory_free


def read_bandwidth(
    threads: int | None = None, *, device: str = "cpu", seconds: float = 1.0
) -> float:
    """Bytes per second that `threads`, or a whole device (`"cuda:0"`), read from its memory.

    Reads a buffer of 2 GiB, less only where not even half of the free memory is that much; the
    buffer is freed before this returns.
    """
    gpu = gpu_of(device)
    if gpu is not None:
        size = min(_BANDWIDTH_BUFFER, gpu.memory_free // 2)
        return _native.cuda_read_bandwidth(int(device.removeprefix("cuda:")), size, seconds / 2)
    _, available = available_memory()
    buffer = min(_BANDWIDTH_BUFFER, available // 2)
    count = threads or _native.cpu_info().default_threads
    return _native.read_bandwidth(count, buffer, seconds)


def available_memory() -> tuple[int, int]:
    """Bytes of memory (total, available), within the limit of the container if there is one."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _native.cgroup_memory_limit("")
    return total if limit is None else min(total, limit), _native.available_memory()
