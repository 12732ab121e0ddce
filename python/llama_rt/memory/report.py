"""`plan`: what a checkpoint would take on this hardware, from its headers only."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from llama_rt.hardware import free_memory, open_backend
from llama_rt.memory.estimate import (
    MemoryEstimate,
    check_quantize,
    estimate_memory,
    resolve_context,
    size,
    target_bytes,
    target_dtype,
)
from llama_rt.memory.gpu_sizes import fits_by_gpu_size
from llama_rt.memory.speed import decode_rate, prefill_rate

if TYPE_CHECKING:
    from llama_rt.checkpoint import Checkpoint

__all__ = ["Plan", "plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a checkpoint would take, and how fast it would be.

    Attributes:
        path: The checkpoint.
        name: Its own name, or that of its file.
        parameters: Number of weights.
        formats: Stored type (after `quantize`) and bytes of each, largest first.
        n_ctx: Tokens of context.
        weights_bytes: Weights in memory (mapped files included).
        kv_bytes: Cache of one sequence as long as the context; committed as it fills.
        workspace_bytes: Intermediate results.
        available_bytes: Memory that can be had now without swapping.
        fits: Everything fits at once.
        device: Device that would be used.
        isa: Its ISA level.
        threads: Threads it would use.
        decode_tok_s: Expected tokens per second of one sequence with a short context.
        prefill_tok_s: Expected tokens per second of a prompt.
        cards: For GPUs by their memory in GB: what fits on them.
        notes: What else there is to say, such as what would fit.
    """

    path: Path
    name: str
    parameters: int
    formats: dict[str, int]
    n_ctx: int
    weights_bytes: int
    kv_bytes: int
    workspace_bytes: int
    available_bytes: int
    fits: bool
    device: str
    isa: str
    threads: int
    decode_tok_s: float
    prefill_tok_s: float
    cards: dict[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        """Weights, cache and workspace."""
        return self.weights_bytes + self.kv_bytes + self.workspace_bytes

    @property
    def runs_on(self) -> str:
        """Device, ISA level and, on the CPU, threads."""
        if self.device == "cpu":
            return f"cpu, {self.isa}, {self.threads} thread{'s' * (self.threads != 1)}"
        return f"{self.device}, {self.isa}"

    def __str__(self) -> str:
        """A few lines for people."""
        formats = ", ".join(f"{name} {size(count)}" for name, count in self.formats.items())
        lines = [
            f"{self.name}: {self.parameters / 1e9:.2f} billion parameters ({formats})",
            f"  weights    {size(self.weights_bytes):>10}",
            f"  KV cache   {size(self.kv_bytes):>10}  at {self.n_ctx} tokens",
            f"  workspace  {size(self.workspace_bytes):>10}",
            f"  total      {size(self.total_bytes):>10}  of {size(self.available_bytes)} free: "
            + ("fits" if self.fits else "does not fit"),
            f"  on {self.runs_on}: about "
            f"{self.decode_tok_s:.3g} tokens/s, prompts {self.prefill_tok_s:.3g} tokens/s",
        ]
        lines += [f"  {card} GB GPU: {what}" for card, what in self.cards.items()]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def plan(
    path: str | Path | None,
    device: str = "auto",
    quantize: str | None = None,
    n_ctx: int | None = None,
    *,
    kv_dtype: str = "f16",
) -> Plan:
    """Says what a checkpoint would take on this hardware, from its headers only.

    The speeds are what the memory bandwidth and the matrix kernels of this hardware, both measured
    for a moment, allow; nothing of the file but its headers is read.

    Args:
        path: As in `Llama.load`.
        device: As in `Llama.load`.
        quantize: As in `Llama.load`.
        n_ctx: Context in tokens; None is the trained one.
        kv_dtype: As in `Llama.load`.

    Raises:
        CheckpointError: The path is no checkpoint.
        ConfigError: An argument is not known, or the model is not supported.
        CapacityError: `n_ctx` is more than the model can do.
        BackendUnavailable: The device was named and cannot be used.
    """
    from llama_rt.checkpoint import find_checkpoint  # here: half the time of `import llama_rt`

    checkpoint = find_checkpoint(path)
    context = resolve_context(checkpoint.config, n_ctx)
    check_quantize(quantize)
    backend = open_backend(device)
    needed = estimate_memory(
        checkpoint, quantize=quantize, n_ctx=context, kv_dtype=kv_dtype, device=backend.name
    )
    available = free_memory(backend.name)
    formats = _formats(checkpoint, quantize)
    return Plan(
        path=checkpoint.path,
        name=checkpoint.config.name or checkpoint.path.name,
        parameters=checkpoint.parameters,
        formats=formats,
        n_ctx=context,
        weights_bytes=needed.weights,
        kv_bytes=needed.kv_cache,
        workspace_bytes=needed.workspace,
        available_bytes=available,
        fits=needed.total <= available,
        device=backend.name,
        isa=backend.isa,
        threads=backend.threads,
        decode_tok_s=decode_rate(backend, needed, next(iter(formats))),
        prefill_tok_s=prefill_rate(backend, checkpoint.config, next(iter(formats))),
        cards=fits_by_gpu_size(checkpoint, quantize=quantize, n_ctx=context, kv_dtype=kv_dtype),
        notes=_notes(checkpoint, needed, available, quantize),
    )


def _formats(checkpoint: Checkpoint, quantize: str | None) -> dict[str, int]:
    """Bytes of each type, largest first."""
    count: Counter[str] = Counter()
    config = checkpoint.config
    for record in checkpoint.tensors.values():
        dtype = target_dtype(record, quantize, config)
        count[dtype] += target_bytes(record, quantize, config)
    return dict(count.most_common())


def _notes(
    checkpoint: Checkpoint, needed: MemoryEstimate, available: int, quantize: str | None
) -> tuple[str, ...]:
    if needed.total <= available:
        return ()
    tokens = needed.cache_tokens(available)
    if tokens > 0:
        return (f"{needed.total - available} bytes are missing; n_ctx={tokens} would fit",)
    notes = [f"{needed.total - available} bytes are missing"]
    for name in ("q8_0", "q4_0"):
        smaller = sum(
            target_bytes(record, name, checkpoint.config) for record in checkpoint.tensors.values()
        )
        if quantize is None and smaller + needed.workspace < available:
            notes.append(f"quantize={name!r} would fit ({size(smaller)} of weights)")
            break
    return tuple(notes)
