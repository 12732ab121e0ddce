"""Plain forward passes for callers who want numbers: logits, log-probabilities, embeddings.

Each text has a context of its own; they run as one batch, in chunks, between the steps of whatever
else is being generated, and what several begin with is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from llama_rt.engine import Engine, Forward, run_forwards
from llama_rt.engine.prefix_cache import ActiveAdapters, common_length
from llama_rt.errors import CapacityError, ConfigError
from llama_rt.hardware import available_memory

__all__ = ["embed", "logits", "score"]

Floats = npt.NDArray[np.float32]
Consumer = Callable[[int, Floats], None]

_CHUNK = 512
# Float32 logits held at a time.
_CHUNK_LOGITS = 16 << 20
# A beginning of fewer ids is computed again; texts that share one are at most so far apart.
_MIN_SHARED = 32
_NEAR = 16


def logits(
    engine: Engine, texts: Sequence[Sequence[int]], active: ActiveAdapters, vocab_size: int
) -> list[Floats]:
    """Logits of every position, float32 `[n, vocab]` for each text.

    Raises:
        CapacityError: The results do not fit in memory.
    """
    count = sum(map(len, texts))
    needed, available = 4 * count * vocab_size, available_memory()[1]
    if needed > available:
        msg = (
            f"logits: {count} x {vocab_size} numbers take {needed} bytes, {available} are free; "
            "give fewer ids at a time"
        )
        raise CapacityError(msg)
    out = [np.empty((len(ids), vocab_size), np.float32) for ids in texts]

    def consumer(i: int) -> Consumer:
        def consume(start: int, rows: Floats) -> None:
            out[i][start : start + len(rows)] = rows

        return consume

    parents = _shared_beginnings(texts)
    _run(engine, texts, consumer, parents, active, vocab_size)
    for i, (parent, shared) in enumerate(parents):
        if shared:
            out[i][:shared] = out[parent][:shared]
    return out


def score(
    engine: Engine, texts: Sequence[Sequence[int]], active: ActiveAdapters, vocab_size: int
) -> list[Floats]:
    """Log-probability of every id after the first, float32 `[n-1]` for each text."""
    out = [np.zeros(len(ids) - 1, np.float32) for ids in texts]

    def consumer(i: int) -> Consumer:
        following = np.array(texts[i][1:], dtype=np.int64)

        def consume(start: int, rows: Floats) -> None:
            targets = following[start : start + len(rows)]
            peak = rows.max(axis=1, keepdims=True)
            total = np.exp(rows - peak).sum(axis=1, dtype=np.float64)
            chosen = rows[np.arange(len(targets)), targets].astype(np.float64)
            out[i][start : start + len(targets)] = chosen - peak[:, 0] - np.log(total)

        return consume

    # The last id is only predicted, never fed. The row of a beginning's last id predicts what texts
    # do not share, so it is computed for each.
    fed = [ids[:-1] for ids in texts]
    parents = [(parent, max(0, shared - 1)) for parent, shared in _shared_beginnings(fed)]
    _run(engine, fed, consumer, parents, active, vocab_size)
    for i, (parent, shared) in enumerate(parents):
        if shared:
            out[i][:shared] = out[parent][:shared]
    return out


def embed(
    engine: Engine,
    texts: Sequence[Sequence[int]],
    active: ActiveAdapters,
    dim: int,
    pooling: str,
    normalize: bool,
) -> list[Floats]:
    """One vector for each text, float32 `[dim]`, from the last layer's normed states.

    Raises:
        ConfigError: `pooling` is neither `"mean"` nor `"last"`.
    """
    if pooling not in ("mean", "last"):
        msg = f"pooling: expected 'mean' or 'last', got {pooling!r}"
        raise ConfigError(msg)
    pooled = np.zeros((len(texts), dim), np.float64)

    def consumer(i: int) -> Consumer:
        def consume(start: int, rows: Floats) -> None:
            if pooling == "last" or start == 0:  # a pass may start over
                pooled[i] = 0
            if pooling == "mean":
                pooled[i] += rows.sum(axis=0, dtype=np.float64) / len(texts[i])
            else:
                pooled[i] = rows[-1]

        return consume

    passes = [
        Forward(ids, consumer(i), states=True, chunk=_CHUNK, adapters=active)
        for i, ids in enumerate(texts)
    ]
    run_forwards(engine, passes)
    if normalize:
        lengths = np.linalg.norm(pooled, axis=1, keepdims=True)
        pooled /= np.where(lengths > 0, lengths, 1)
    return list(pooled.astype(np.float32))


def _run(
    engine: Engine,
    texts: Sequence[Sequence[int]],
    consumer: Callable[[int], Consumer],
    parents: Sequence[tuple[int, int]],
    active: ActiveAdapters,
    vocab_size: int,
) -> None:
    """Hands the logits of each text's rows to its consumer, those of shared beginnings once."""
    passes: list[Forward] = []
    chunk = max(1, min(_CHUNK, _CHUNK_LOGITS // vocab_size))
    for i, ids in enumerate(texts):
        parent, shared = parents[i]
        passes.append(
            Forward(
                ids,
                consumer(i),
                states=False,
                chunk=chunk,
                adapters=active,
                parent=passes[parent] if shared else None,
                shared=shared,
            )
        )
    run_forwards(engine, [one for one in passes if one.history])


def _shared_beginnings(texts: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """For each text an earlier one and how many ids they share at the beginning; 0 if too few.

    At least one id of each is left to compute.
    """
    found: list[tuple[int, int]] = []
    for i, ids in enumerate(texts):
        near = range(max(0, i - _NEAR), i)
        shared = [(min(common_length(texts[j], ids), len(ids) - 1), -j) for j in near]
        most, earlier = max(shared, default=(0, 0))
        found.append((-earlier, most) if most >= _MIN_SHARED else (0, 0))
    return found
