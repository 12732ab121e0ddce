"""Plain forward passes for callers who want numbers: logits, log-probabilities, embeddings.

Each runs in a fresh context, in chunks, between the steps of whatever else is being generated.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llama_rt.engine import Engine, Forward, run_forward
from llama_rt.engine.prefix_cache import ActiveAdapters
from llama_rt.errors import CapacityError, ConfigError
from llama_rt.hardware import available_memory

__all__ = ["embed", "logits", "score"]

Floats = npt.NDArray[np.float32]

_CHUNK = 512
# Float32 logits held at a time.
_CHUNK_LOGITS = 16 << 20


def logits(engine: Engine, ids: Sequence[int], active: ActiveAdapters, vocab_size: int) -> Floats:
    """Logits of every position, float32 `[n, vocab]`.

    Raises:
        CapacityError: The result does not fit in memory.
    """
    needed, available = 4 * len(ids) * vocab_size, available_memory()[1]
    if needed > available:
        msg = (
            f"logits: {len(ids)} x {vocab_size} numbers take {needed} bytes, {available} are free; "
            "give fewer ids at a time"
        )
        raise CapacityError(msg)
    out = np.empty((len(ids), vocab_size), np.float32)

    def consume(start: int, rows: Floats) -> None:
        out[start : start + len(rows)] = rows

    chunk = _chunk(vocab_size)
    run_forward(engine, Forward(ids, consume, states=False, chunk=chunk, adapters=active))
    return out


def score(engine: Engine, ids: Sequence[int], active: ActiveAdapters, vocab_size: int) -> Floats:
    """Log-probability of every id after the first, float32 `[n-1]`."""
    out = np.zeros(len(ids) - 1, np.float32)
    following = np.array(ids[1:], dtype=np.int64)

    def consume(start: int, rows: Floats) -> None:
        targets = following[start : start + len(rows)]
        rows = rows[: len(targets)]
        peak = rows.max(axis=1, keepdims=True)
        total = np.exp(rows - peak).sum(axis=1, dtype=np.float64)
        chosen = rows[np.arange(len(targets)), targets].astype(np.float64)
        out[start : start + len(targets)] = chosen - peak[:, 0] - np.log(total)

    if len(ids) > 1:  # the last id is only predicted, never fed
        chunk = _chunk(vocab_size)
        run_forward(engine, Forward(ids[:-1], consume, states=False, chunk=chunk, adapters=active))
    return out


def embed(
    engine: Engine,
    ids: Sequence[int],
    active: ActiveAdapters,
    dim: int,
    pooling: str,
    normalize: bool,
) -> Floats:
    """One vector for a text, float32 `[dim]`, from the last layer's normed states.

    Raises:
        ConfigError: `pooling` is neither `"mean"` nor `"last"`.
    """
    if pooling not in ("mean", "last"):
        msg = f"pooling: expected 'mean' or 'last', got {pooling!r}"
        raise ConfigError(msg)
    pooled = np.zeros(dim, np.float64)

    def consume(_: int, rows: Floats) -> None:
        if pooling == "mean":
            pooled[:] += rows.sum(axis=0, dtype=np.float64) / len(ids)
        else:
            pooled[:] = rows[-1]

    run_forward(engine, Forward(ids, consume, states=True, chunk=_CHUNK, adapters=active))
    length = float(np.linalg.norm(pooled))
    return (pooled / length if normalize and length > 0 else pooled).astype(np.float32)


def _chunk(vocab_size: int) -> int:
    return max(1, min(_CHUNK, _CHUNK_LOGITS // vocab_size))
