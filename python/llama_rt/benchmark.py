"""Tokens per second of a model on this computer, and what the memory could give.

Measures the native calls that a generation makes (`Runner.forward` for a prompt, `Runner.decode`
for what follows), so that the figures are the runtime's own. Weights come through the same loading
and repacking as any model's, from a file or made in memory for a shape.
"""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from llama_rt import _native, machine
from llama_rt.errors import CapacityError, ConfigError
from llama_rt.llama.weights import build_model
from llama_rt.loading import Checkpoint
from llama_rt.plan import check_quantize, needs

__all__ = ["Result", "Settings", "measure", "stored_formats"]

# Prompts are fed in pieces of this many tokens, as the engine does.
_CHUNK = 512
# More than any page of the cache: what a sequence may hold beyond its own tokens.
_PAGE = 64


@dataclass(frozen=True, slots=True)
class Settings:
    """What to measure.

    Attributes:
        prompt: tokens of the prompt whose reading is timed; 0 leaves that out.
        generate: tokens that each sequence decodes; 0 leaves that out.
        context: tokens in each sequence's cache before decoding starts.
        batch: sequences that decode together.
        repeat: how often each figure is taken.
        profile: also take the time of each op.
        device: as in `Llama.load`; so are the next five.
        isa: tier.
        threads: threads.
        quantize: format to re-encode matrices to.
        repack: weight layout.
        kv_dtype: element type of the cache.
    """

    prompt: int = 512
    generate: int = 64
    context: int = 0
    batch: int = 1
    repeat: int = 3
    profile: bool = False
    device: str = "auto"
    isa: str | None = None
    threads: int | None = None
    quantize: str | None = None
    repack: Literal["auto", "never", "always"] = "auto"
    kv_dtype: str = "f16"

    def __post_init__(self) -> None:
        """Checks the counts."""
        for name, least in (
            ("prompt", 0), ("generate", 0), ("context", 0), ("batch", 1), ("repeat", 1),
        ):  # fmt: skip
            if getattr(self, name) < least:
                msg = f"{name}: expected {least} or more, got {getattr(self, name)}"
                raise ConfigError(msg)


@dataclass(slots=True)
class Result:
    """What was measured; tokens per second hold one entry per repeat.

    Attributes:
        device: where the model ran.
        isa: tier that ran it.
        threads: threads that ran it.
        format: the type that most bytes of the weights are stored in.
        weight_bytes: bytes of weights that one decoded token reads.
        load_s: seconds from the first tensor (made, or read from its file) to the finished model.
        peak_rss_bytes: most memory the process held from loading on. Pages of mapped files count.
        read_bytes_s: bytes per second that the same threads read from memory.
        prefill_tok_s: prompt tokens per second.
        decode_tok_s: generated tokens per second, all sequences of the batch together.
        profile: seconds of each op in one prefill and one decode, if asked for.
    """

    device: str
    isa: str
    threads: int
    format: str
    weight_bytes: int
    load_s: float
    peak_rss_bytes: int
    read_bytes_s: float
    prefill_tok_s: list[float] = field(default_factory=list)
    decode_tok_s: list[float] = field(default_factory=list)
    profile: dict[str, dict[str, float]] = field(default_factory=dict)


def measure(checkpoint: Checkpoint, settings: Settings, *, progress: bool | None = False) -> Result:
    """Loads a checkpoint and takes the figures.

    Args:
        checkpoint: an opened or a synthetic one.
        settings: what to measure.
        progress: show a bar while loading: None on a terminal, False never.

    Raises:
        CapacityError: weights and cache do not fit in memory; says how much is missing.
        ConfigError: a format is unknown or cannot be produced.
        BackendUnavailable: the device or tier was named and cannot be used.
    """
    check_quantize(settings.quantize)
    cache_tokens = _cache_tokens(settings)
    _check_memory(checkpoint, settings, cache_tokens)
    backend = _native.open_backend(settings.device, isa=settings.isa, threads=settings.threads)
    # First, and freed again: it must neither stand beside the model nor count in its peak.
    bandwidth = machine.read_bandwidth(backend.threads)
    _forget_peak()
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
        max_batch_tokens=max(_CHUNK, settings.batch),
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
    vocab = checkpoint.config.vocab_size
    if settings.prompt:
        result.prefill_tok_s = list(_prefill(runner, vocab, settings, result.profile))
    if settings.generate:
        result.decode_tok_s = list(_decode(runner, vocab, settings, result.profile))
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
    return settings.batch * (each + _PAGE)


def _check_memory(checkpoint: Checkpoint, settings: Settings, tokens: int) -> None:
    """Refuses what cannot fit before anything is read or made."""
    needed = needs(checkpoint, quantize=settings.quantize, n_ctx=tokens, kv_dtype=settings.kv_dtype)
    _, available = machine.available_memory()
    if needed.total > available:
        msg = (
            f"not enough memory: {needed.weights} bytes of weights, {needed.kv_cache} of cache for "
            f"{tokens} tokens and {needed.workspace} of workspace, but {available} are free: "
            f"{needed.total - available} are missing"
        )
        raise CapacityError(msg)


def _prefill(
    runner: _native.Runner, vocab: int, settings: Settings, profile: dict[str, dict[str, float]]
) -> Iterator[float]:
    """Prompt tokens per second; the first pass warms up and is not counted."""
    prompt = _random_tokens(settings.prompt, vocab, seed=1)
    for turn in range(settings.repeat + 1):
        sequence = runner.create()
        began = time.perf_counter()
        _feed(runner, sequence, prompt)
        seconds = time.perf_counter() - began
        runner.release(sequence)
        if turn:
            yield settings.prompt / seconds
    if settings.profile:
        runner.profile(True)
        sequence = runner.create()
        _feed(runner, sequence, prompt)
        profile["prefill"] = runner.profile(False)
        runner.release(sequence)


def _decode(
    runner: _native.Runner, vocab: int, settings: Settings, profile: dict[str, dict[str, float]]
) -> Iterator[float]:
    """Generated tokens per second of the whole batch, greedy, from a filled cache."""
    sequences = [runner.create() for _ in range(settings.batch)]
    for index, sequence in enumerate(sequences):
        _feed(runner, sequence, _random_tokens(settings.context, vocab, seed=2 + index))

    def turn(steps: int) -> float:
        samplers = [_native.Sampler(vocab, temperature=0.0) for _ in sequences]
        first = _random_tokens(settings.batch, vocab, seed=3).tolist()
        began = time.perf_counter()
        drawn = runner.decode(sequences, first, samplers, steps=steps)
        seconds = time.perf_counter() - began
        for sequence in sequences:
            runner.truncate(sequence, settings.context)
        return sum(len(sampled.tokens) for sampled in drawn) / seconds

    turn(min(4, settings.generate))  # warm up
    for _ in range(settings.repeat):
        yield turn(settings.generate)
    if settings.profile:
        runner.profile(True)
        turn(settings.generate)
        profile["decode"] = runner.profile(False)
    for sequence in sequences:
        runner.release(sequence)


def _feed(runner: _native.Runner, sequence: int, tokens: npt.NDArray[np.int32]) -> None:
    """Appends tokens in chunks; the logits of the very last one are computed, as for a prompt."""
    for start in range(0, len(tokens), _CHUNK):
        chunk = tokens[start : start + _CHUNK]
        last = start + _CHUNK >= len(tokens)
        runner.forward([sequence], [chunk], outputs="last" if last else "none")


def _random_tokens(count: int, vocab: int, *, seed: int) -> npt.NDArray[np.int32]:
    return np.random.default_rng(seed).integers(0, vocab, count, dtype=np.int32)


def _forget_peak() -> None:
    """Starts the kernel's record of peak memory anew (Linux `proc(5)`, clear_refs)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak() -> int:
    """Peak resident bytes since `_forget_peak`; of the whole process where that is not kept."""
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        line = next(line for line in lines if line.startswith("VmHWM:"))
        return int(line.split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
