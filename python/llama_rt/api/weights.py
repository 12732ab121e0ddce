"""From records to a native model: tensor by tensor, quantized on the way if asked."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from llama_rt import _native
from llama_rt.memory import target_dtype

if TYPE_CHECKING:
    from llama_rt.checkpoint import Checkpoint, TensorRecord
    from llama_rt.config import ModelConfig

__all__ = ["build_model", "encoded", "native_options"]

Repack = Literal["auto", "never", "always"]


def build_model(
    checkpoint: Checkpoint,
    backend: _native.Backend,
    *,
    quantize: str | None,
    repack: Repack,
    progress: bool | None,
    n_ctx: int | None = None,
) -> _native.Model:
    """Streams every tensor into a native model.

    At most one tensor is held in addition to the model: with `quantize`, its stored bytes
    (mapped, not read at once), a few rows as float32, and the result. Matrices of a synthetic
    model are put together in the backend's memory.

    Args:
        checkpoint: Verified records.
        backend: Where the weights go.
        quantize: Format of matrices whose rows are whole blocks of it; None keeps them as stored.
        repack: Whether the backend may, must or must not copy weights into its own layout.
        progress: Show a bar: None on a terminal, False never.
        n_ctx: Tokens of context, which longrope's divisors depend on.
    """
    model = _native.Model(backend, repack=repack, **native_options(checkpoint.config))
    with _bar(checkpoint.nbytes, checkpoint.path.name, progress) as advance:
        for record in checkpoint.tensors.values():
            dtype = target_dtype(record, quantize, checkpoint.config)
            _add(model, record, dtype, backend.threads)
            advance(record.nbytes)
        _add_divisors(model, checkpoint.config, n_ctx)
        model.finish()
    return model


def _add(model: _native.Model, record: TensorRecord, dtype: str, threads: int) -> None:
    """Gives one tensor to the model, as `dtype`."""
    from llama_rt.formats.records import BlockPool

    if dtype != record.dtype:
        model.add(record.name, encoded(record, dtype, threads).data, dtype, record.shape)
    elif isinstance(record.source, BlockPool) and len(record.shape) == 2:
        pool, starts = record.source.pieces()
        model.add_pieces(record.name, pool.data, starts, dtype, record.shape)
    else:
        model.add(record.name, record.read().data, dtype, record.shape)


def _add_divisors(model: _native.Model, config: ModelConfig, n_ctx: int | None) -> None:
    """Gives longrope's divisors of the rotary frequencies to the model.

    As in transformers, the long ones hold beyond the original context; there they are chosen by
    the text's length, here by the context's, since cached keys are rotated once.
    """
    rope = config.rope_scaling
    if rope.kind == "longrope":
        is_long = (n_ctx or config.default_context) > rope.original_context
        chosen = rope.long_divisors if is_long else rope.short_divisors
        divisors = np.array(chosen, dtype=np.float32)
        model.add("rope.divisors", divisors.view(np.uint8).data, "f32", divisors.shape)


def encoded(record: TensorRecord, dtype: str, threads: int) -> npt.NDArray[np.uint8]:
    """Encodes a stored matrix as `dtype`, a few rows at a time on each thread.

    Returns:
        uint8 `[bytes]`, row by row.

    Raises:
        CheckpointError: A weight is NaN or infinite and `dtype` is a quantized format.
    """
    from llama_rt.convert.rewrite import requantize

    return requantize(record, record.read(), record.shape[1], dtype, threads=threads)


def native_options(config: ModelConfig) -> dict[str, Any]:
    """The keyword arguments of the native model for a configuration."""
    rope = config.rope_scaling
    # Dynamic NTK is the plain rule up to `max_context`, and a longer context is refused.
    kind = "none" if rope.kind in ("dynamic", "longrope") else rope.kind
    return {
        "dim": config.dim,
        "n_layers": config.n_layers,
        "n_heads": config.n_heads,
        "n_kv_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "ffn_dim": config.ffn_dim,
        "vocab_size": config.vocab_size,
        "norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_style": config.rope_style,
        "rope_scaling": kind,
        "rope_factor": rope.factor,
        "rope_low_freq_factor": rope.low_freq_factor,
        "rope_high_freq_factor": rope.high_freq_factor,
        "rope_original_context": rope.original_context,
        "rope_beta_fast": rope.beta_fast,
        "rope_beta_slow": rope.beta_slow,
        "rope_attention_factor": rope.attention_factor,
        "rope_truncate": rope.truncate,
        "sliding_window": config.sliding_window or 0,
        "qk_norm": config.qk_norm,
    }


@contextmanager
def _bar(total: int, name: str, progress: bool | None) -> Iterator[Callable[[int], object]]:
    """A bar over bytes on standard error; yields what advances it."""
    if progress is False or (progress is None and not sys.stderr.isatty()):
        yield lambda _: None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=f"loading {name}", unit="B", unit_scale=True, leave=False) as bar:
        yield bar.update
