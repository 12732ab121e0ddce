"""Deltas: weights published as the difference to a base, added tensor by tensor when they are read.

Vicuna v0 and v1.1 (lm-sys/FastChat `fastchat/model/apply_delta.py`), Stanford Alpaca's weight diff
(`weight_diff.py`), Koala's EasyLM stream (`EasyLM/scripts/diff_checkpoint.py`). Every sum is taken
in float32 and rounded once to the delta's own type.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from llama_rt.checkpoint.checkpoint import Checkpoint
from llama_rt.checkpoint.computed import (
    Floats,
    MakeRows,
    Order,
    computed_record,
    stored_rows,
    to_half_split,
    to_interleaved,
)
from llama_rt.checkpoint.names import DIVISORS
from llama_rt.config import ModelConfig
from llama_rt.errors import CheckpointError
from llama_rt.formats.records import TensorRecord

__all__ = ["ALPACA_SUM", "Checksum", "add_delta", "looks_like_a_delta", "open_delta"]

_log = logging.getLogger("llama_rt")

_FLOATS = ("f32", "f16", "bf16")
_TABLES = ("tok_embeddings.weight", "output.weight")
# Sizes that must agree; the vocabulary may grow by the pad token.
_SIZES = ("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "ffn_dim")

# A full model's last norm is near 1 and a delta's near 0; the models of the family lie far apart.
_DELTA_NORM = 0.1

# Sum of all tensors' sums that `weight_diff.py` demands of the recovered 7B, in float32. It was
# taken with the 32 `inv_freq` buffers, which are no weights here.
ALPACA_SUM = 50637.1836
_ALPACA_TOLERANCE = 0.5  # theirs is 1e-2, in an arithmetic whose order of terms is unknown
_ALPACA_SHAPE = (4096, 32, 32001)


@dataclass
class Checksum:
    """Adds up tensors as they are read; says so once if the total is not the published one."""

    expected: float
    tolerance: float
    names: set[str]
    report: Callable[[str], object] = _log.warning
    total: float = 0.0
    done: set[str] = field(default_factory=set)

    def add(self, name: str, part: float) -> None:
        """Takes one tensor's sum; the second time it is read does not count."""
        if name in self.done:
            return
        self.done.add(name)
        self.total += part
        if self.done == self.names and not abs(self.total - self.expected) <= self.tolerance:
            self.report(
                f"the recovered weights add up to {self.total:.4f}, but Stanford Alpaca published "
                f"{self.expected:.4f}: the base or the diff may not be the original one"
            )


def open_delta(path: str | Path, base: Checkpoint) -> Checkpoint:
    """Opens a delta and adds it to its base.

    Args:
        path: a Hugging Face folder of differences (Vicuna, Alpaca), or Koala's EasyLM stream.
        base: the model that the difference was taken to, in any layout that is not quantized.

    Raises:
        CheckpointNotFoundError: there is nothing at the path.
        CheckpointError: the delta is damaged, or does not fit the base; both shapes are named.
    """
    from llama_rt.checkpoint.koala import is_koala, open_koala
    from llama_rt.checkpoint.open import open_checkpoint

    place = Path(path).expanduser()
    delta = open_koala(place, base) if is_koala(place) else open_checkpoint(path)
    return add_delta(delta, base)


def add_delta(delta: Checkpoint, base: Checkpoint) -> Checkpoint:
    """The sum of two checkpoints, computed as it is read; all but the weights is the delta's.

    Where the delta has one row more than the base (the pad token), the base's row is zero for a
    half-precision delta (as Vicuna v0) and the mean of the others for a float32 one (as Alpaca).
    The row is never sampled.

    Raises:
        CheckpointError: other sizes or tensors, or a quantized base.
    """
    _check_sizes(delta, base)
    checksum = _alpaca_checksum(delta)
    tensors: dict[str, TensorRecord] = {}
    for name, record in delta.tensors.items():
        if name == DIVISORS:
            tensors[name] = record
            continue
        own = base.tensors.get(name)
        if own is None and name == "output.weight" and base.config.tie_embeddings:
            own = base.tensors["tok_embeddings.weight"]
        if own is None:
            msg = f"{record.file}: the delta has {name!r}, which its base {base.path} has not"
            raise CheckpointError(msg)
        _check_pair(record, own)
        prepare = partial(_sum, record, own, _order(name, delta.config, base.config), checksum)
        tensors[name] = computed_record(name, record.file, record.dtype, record.shape, prepare)
    left = [name for name in base.tensors if name not in tensors and name != DIVISORS]
    if left:
        msg = f"{delta.path}: the base {base.path} has {left[0]!r}, which the delta has not"
        raise CheckpointError(msg)
    return replace(delta, tensors=tensors)


def looks_like_a_delta(checkpoint: Checkpoint) -> bool:
    """Whether the weights are differences: names and shapes do not tell, the last norm does."""
    values = stored_rows(checkpoint.tensors["norm.weight"])(0, 1)
    return float(np.abs(values).mean()) < _DELTA_NORM


def _check_sizes(delta: Checkpoint, base: Checkpoint) -> None:
    for name in _SIZES:
        ours, theirs = getattr(delta.config, name), getattr(base.config, name)
        if ours != theirs:
            msg = (
                f"{delta.path}: a delta for a model with {name} {ours}, but the base {base.path} "
                f"has {theirs}: it is not its base"
            )
            raise CheckpointError(msg)


def _check_pair(record: TensorRecord, own: TensorRecord) -> None:
    rows, had = record.shape[0], own.shape[0]
    one_more = record.name in _TABLES and rows == had + 1
    if record.shape[1:] != own.shape[1:] or not (rows == had or one_more):
        msg = (
            f"{record.file}: {record.name!r} of the delta has shape {list(record.shape)}, the "
            f"base's in {own.file} has {list(own.shape)}"
        )
        if record.name in _TABLES:
            msg += "; the vocabulary may grow by one token, the pad token, and no more"
        raise CheckpointError(msg)
    for which in (record, own):
        if which.dtype not in _FLOATS:
            msg = (
                f"{which.file}: {which.name!r} is stored as {which.dtype}; a delta and its base "
                f"must be {', '.join(_FLOATS)}: adding to quantized weights is not what was trained"
            )
            raise CheckpointError(msg)


def _order(name: str, delta: ModelConfig, base: ModelConfig) -> Order | None:
    """Rows of the base's wq and wk in the delta's rotary order."""
    if delta.rope_style == base.rope_style or not name.startswith("layers."):
        return None
    heads = {"wq": base.n_heads, "wk": base.n_kv_heads}.get(name.split(".")[-2])
    if heads is None:
        return None
    return (to_half_split if delta.rope_style == "halves" else to_interleaved)(heads, base.head_dim)


def _sum(
    record: TensorRecord, own: TensorRecord, order: Order | None, checksum: Checksum | None
) -> MakeRows:
    """Rows of delta + base."""
    difference, base = stored_rows(record), stored_rows(own, order)
    pad = None
    if len(record.shape) == 2 and record.shape[0] > own.shape[0]:
        pad = _pad_row(base, own) if record.dtype == "f32" else np.zeros((1, own.shape[1]), "f4")
    parts = None if checksum is None else _Parts(record, checksum)

    def make(start: int, stop: int) -> Floats:
        values = difference(start, stop)
        known = stop if pad is None else min(stop, own.shape[0])
        if known > start:
            values[: known - start] += base(start, known)
        if pad is not None and stop > own.shape[0]:
            values[known - start :] += pad
        if parts is not None:
            parts.add(values)
        return values

    return make


class _Parts:
    """The sum of one tensor, of which threads make different rows."""

    def __init__(self, record: TensorRecord, checksum: Checksum) -> None:
        self._name = record.name
        self._checksum = checksum
        self._left = math.prod(record.shape)
        self._total = 0.0
        self._lock = threading.Lock()

    def add(self, values: Floats) -> None:
        part = float(values.sum(dtype=np.float64))
        with self._lock:
            self._total += part
            self._left -= values.size
            if self._left == 0:
                self._checksum.add(self._name, self._total)


def _pad_row(base: MakeRows, own: TensorRecord) -> Floats:
    """The mean of the existing rows, as `weight_diff.py` starts the pad token's."""
    rows, width = own.shape
    total = np.zeros(width, np.float64)
    step = 1 << 10
    for start in range(0, rows, step):
        total += base(start, min(start + step, rows)).sum(axis=0, dtype=np.float64)
    return (total / rows).astype(np.float32)[None]


def _alpaca_checksum(delta: Checkpoint) -> Checksum | None:
    """Stanford's check, for a delta of exactly its shape."""
    config = delta.config
    embedding = delta.tensors["tok_embeddings.weight"]
    shape = (config.dim, config.n_layers, config.vocab_size)
    if shape != _ALPACA_SHAPE or embedding.dtype != "f32":
        return None
    frequencies = config.rope_theta ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
    names = {name for name in delta.tensors if name != DIVISORS}
    expected = ALPACA_SUM - config.n_layers * float(frequencies.sum())
    return Checksum(expected, _ALPACA_TOLERANCE, names)
