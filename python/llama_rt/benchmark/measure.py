"""One measurement from beginning to end: bandwidth, loading, the passes, the peak of memory."""

from __future__ import annotations

import resource
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from llama_rt import _native, hardware
from llama_rt.api.weights import build_model
from llama_rt.benchmark.passes import CHUNK, PAGE, Passes
from llama_rt.benchmark.random_adapters import random_adapters
from llama_rt.benchmark.settings import Result, Settings
from llama_rt.checkpoint import Checkpoint
from llama_rt.errors import CapacityError
from llama_rt.memory import check_quantize, estimate_memory

__all__ = ["measure", "stored_formats"]


def measure(checkpoint: Checkpoint, settings: Settings, *, progress: bool | None = False) -> Result:
    """Loads a checkpoint and takes the figures.

    Args:
        checkpoint: an opened or a synthetic one.
        settings: what to measure.
        progress: show a bar while loading: None on a terminal, False never.

    Raises:
        CapacityError: weights and cache do not fit in memory; says how much is missing.
        ConfigError: a format is unknown or cannot be produced.
        BackendUnavailable: the device was named and cannot be used.
    """
    check_quantize(settings.quantize)
    cache_tokens = _cache_tokens(settings)
    backend = hardware.open_backend(settings.device, isa=settings.isa, threads=settings.threads)
    _check_memory(checkpoint, settings, cache_tokens, backend.name)
    # First, and freed again: its buffer must neither share the memory with the model nor count in
    # its peak.
    bandwidth = hardware.read_bandwidth(backend.threads, device=backend.name)
    _reset_peak()
    began = time.perf_counter()
    model = build_model(
        checkpoint,
        backend,
        quantize=settings.quantize,
        repack=settings.repack,
        progress=progress,
    )
    load_s = time.perf_counter() - began
    runner = _native.Runner(
        model,
        n_ctx=max(settings.prompt, settings.context + settings.generate, 1),
        kv_dtype=settings.kv_dtype,
        max_batch_tokens=max(CHUNK, settings.batch),
        cache_tokens=cache_tokens,
    )
    result = Result(
        device=backend.name,
        isa=backend.isa,
        threads=backend.threads,
        format=settings.quantize or next(iter(stored_formats(checkpoint))),
        weight_bytes=model.streamed_bytes,
        load_s=load_s,
        peak_rss_bytes=0,
        read_bytes_s=bandwidth,
    )
    adapters = random_adapters(
        model,
        checkpoint.config,
        lora_rank=settings.lora_rank,
        llama_adapter=settings.llama_adapter,
    )
    passes = Passes(runner, checkpoint.config.vocab_size, settings, adapters)
    if settings.prompt:
        result.prefill_tok_s = passes.prefill(result.profile)
    if settings.generate:
        result.decode_tok_s, result.plain_tok_s = passes.decode(result.profile)
    result.peak_rss_bytes = _peak()
    return result


def stored_formats(checkpoint: Checkpoint) -> dict[str, int]:
    """Stored bytes of each type, largest first."""
    held: Counter[str] = Counter()
    for tensor in checkpoint.tensors.values():
        held[tensor.dtype] += tensor.nbytes
    return dict(held.most_common())


def _cache_tokens(settings: Settings) -> int:
    """Tokens of cache: the prompt, or every sequence of the batch, each in pages of its own."""
    each = max(settings.prompt, settings.context + settings.generate)
    return settings.batch * (each + PAGE)


def _check_memory(checkpoint: Checkpoint, settings: Settings, tokens: int, device: str) -> None:
    """Refuses what cannot fit before anything is read or made."""
    available = hardware.free_memory(device)
    needed = estimate_memory(
        checkpoint,
        quantize=settings.quantize,
        n_ctx=tokens,
        kv_dtype=settings.kv_dtype,
        device=device,
    )
    if needed.total > available:
        msg = (
            f"not enough memory: {needed.weights} bytes of weights, {needed.kv_cache} of cache for "
            f"{tokens} tokens and {needed.workspace} of workspace, but {available} are free: "
            f"{needed.total - available} are missing"
        )
        raise CapacityError(msg)


def _reset_peak() -> None:
    """Resets the kernel's record of peak memory (Linux `proc(5)`, clear_refs)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak() -> int:
    """Peak resident bytes since `_reset_peak`; of the whole process where that is not kept."""
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        line = next(line for line in lines if line.startswith("VmHWM:"))
        return int(line.split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
