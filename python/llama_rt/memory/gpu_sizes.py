"""What of a model fits on GPUs of the usual sizes, whether or not one is here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_rt.memory.estimate import estimate_memory

if TYPE_CHECKING:
    from llama_rt.checkpoint import Checkpoint

__all__ = ["GPU_SIZES", "fits_by_gpu_size"]

GPU_SIZES = (12, 24, 40, 80, 141)  # GiB (141: GB, as that GPU is sold)
_GIB = 1 << 30
_BYTES = {141: 141 * 10**9}
# What the driver, the module's code and the kernels' scratch take of a GPU's memory.
_OVERHEAD = 768 << 20
_FORMATS = ("q8_0", "q4_0")
_MIN_CONTEXT = 512


def fits_by_gpu_size(
    checkpoint: Checkpoint, *, quantize: str | None, n_ctx: int, kv_dtype: str
) -> dict[int, str]:
    """For each GPU size: in what format, and with how much context, the model fits.

    The best format comes first: as stored (or as asked for), then smaller ones. A format with a
    shorter context is named only when no smaller one holds the whole of it.
    """
    wanted = [quantize] if quantize else [None, *_FORMATS]
    needed = {
        name: estimate_memory(
            checkpoint, quantize=name, n_ctx=n_ctx, kv_dtype=kv_dtype, device="cuda"
        )
        for name in wanted
    }
    found = {}
    for gib in GPU_SIZES:
        available = _BYTES.get(gib, gib * _GIB) - _OVERHEAD
        whole = [name for name, need in needed.items() if need.total <= available]
        tokens = {name: need.cache_tokens(available) for name, need in needed.items()}
        best = max(tokens, key=lambda name: tokens[name])
        if whole:
            found[gib] = f"{_words(whole[0])}, {n_ctx} tokens of context"
        elif tokens[best] >= _MIN_CONTEXT:
            found[gib] = f"{_words(best)}, {tokens[best]} tokens of context"
        else:
            found[gib] = "does not fit"
    return found


def _words(name: str | None) -> str:
    return "as stored" if name is None else name
