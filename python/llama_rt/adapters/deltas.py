"""What an adapter adds to a model, as data, and how it is attached.

A reader gives deltas in its file's own rotary order; `attach` permutes the rows of wq and wk
where the base keeps the other one, and hands everything to the native adapter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from llama_rt import _native
from llama_rt.checkpoint.checkpoint import Checkpoint
from llama_rt.checkpoint.computed import MakeRows, computed_record, to_half_split, to_interleaved
from llama_rt.config import ModelConfig
from llama_rt.errors import CapacityError, CheckpointError, ShapeError
from llama_rt.formats.dtypes import STORED
from llama_rt.formats.records import TensorRecord

__all__ = [
    "SIZES",
    "AdapterDelta",
    "AdapterFile",
    "Bias",
    "Floats",
    "InputScale",
    "Lora",
    "NormGain",
    "Prefix",
    "Replaced",
    "attach",
    "check_pairing",
    "floats",
    "module_of",
    "rope_permutation",
    "transposed",
]

Floats = npt.NDArray[np.float32]
# Sizes of the family by width.
SIZES = {4096: "7B or 8B", 5120: "13B", 6656: "33B", 8192: "65B or 70B"}

NormName = Literal["attention_norm", "ffn_norm"]


@dataclass(frozen=True, slots=True)
class Lora:
    """`W' = W + scale * b a`; a `[rank, in]`, b `[out, rank]`.

    Of a layer's linear, or, with layer -1, of the slots `output` and `tok_embeddings`, whose
    matrix is `[vocab, dim]`. With a magnitude `[out]` (DoRA), each row of the sum is scaled to that
    length.
    """

    layer: int
    slot: str
    a: TensorRecord
    b: TensorRecord
    scale: float
    magnitude: TensorRecord | None = None


@dataclass(frozen=True, slots=True)
class Bias:
    """`y += scale * bias`; `replaces` says that the value stands for the base's own bias."""

    layer: int
    slot: str
    bias: TensorRecord
    scale: float = 1.0
    replaces: bool = False


@dataclass(frozen=True, slots=True)
class InputScale:
    """`y = W (x * scale)`."""

    layer: int
    slot: str
    scale: TensorRecord


@dataclass(frozen=True, slots=True)
class NormGain:
    """A norm's weight in place of the base's."""

    layer: int
    norm: NormName
    gain: TensorRecord


@dataclass(frozen=True, slots=True)
class Replaced:
    """A whole tensor in place of the base's, or some rows of it.

    Attributes:
        layer: -1 outside of layers.
        name: canonical name of the tensor.
        value: what stands there now; a table may have more rows than the base's.
        rows: which rows; None for all.
    """

    layer: int
    name: str
    value: TensorRecord
    rows: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Prefix:
    """Gated prefix attention: rows `[start, stop)` of `rows`, one gate per head or one for all."""

    layer: int
    rows: TensorRecord
    start: int
    stop: int
    gate: TensorRecord
    tanh: bool


AdapterDelta = Lora | Bias | InputScale | NormGain | Prefix | Replaced


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """An adapter as it is stored.

    Attributes:
        path: file or folder.
        kind: what it is, for people: `"LoRA of rank 8"`.
        rope_style: rotary order of its wq and wk rows; None where it has none.
        deltas: scales and biases come before the prefixes they act on.
        base_layers: layers of the model that it was made for; None where the file does not tell.
    """

    path: Path
    kind: str
    rope_style: Literal["interleaved", "halves"] | None
    deltas: tuple[AdapterDelta, ...]
    base_layers: int | None = None

    @property
    def n_layers(self) -> int:
        """The highest layer that has a delta, and one."""
        return 1 + max(delta.layer for delta in self.deltas)

    @property
    def dim(self) -> int | None:
        """Width of the model that it was made for; None if nothing in it tells."""
        return next((width for delta in self.deltas if (width := _width(delta))), None)

    @property
    def vocab(self) -> int | None:
        """Rows of the tables of the model that it was made for; None if it changes none."""
        return next(
            (p.b.shape[0] for p in self.deltas if isinstance(p, Lora) and p.layer < 0), None
        )

    @property
    def scalable(self) -> bool:
        """Whether half of it means something: norms and input scales do not add up."""
        return not any(isinstance(delta, (InputScale, NormGain)) for delta in self.deltas)

    @property
    def merges(self) -> bool:
        """Whether it has to be merged into the weights: it is no sum that requests could choose."""
        return any(
            isinstance(delta, Replaced) or (isinstance(delta, Lora) and delta.magnitude is not None)
            for delta in self.deltas
        )

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in memory, as float32."""
        return 4 * sum(_elements(delta) for delta in self.deltas)


def _elements(delta: AdapterDelta) -> int:
    if isinstance(delta, Lora):
        return math.prod(delta.a.shape) + math.prod(delta.b.shape)
    if isinstance(delta, Bias):
        return math.prod(delta.bias.shape)
    if isinstance(delta, InputScale):
        return math.prod(delta.scale.shape)
    if isinstance(delta, NormGain):
        return math.prod(delta.gain.shape)
    if isinstance(delta, Replaced):
        return math.prod(delta.value.shape)
    return 2 * (delta.stop - delta.start) * delta.rows.shape[-1]  # keys and values


def _width(delta: AdapterDelta) -> int | None:
    """The model's width where a delta shows it; projections may be of any other."""
    if isinstance(delta, Lora):
        sides = (delta.b.shape[0], delta.a.shape[1])
        return {"wo": sides[0], "w2": sides[0]}.get(delta.slot, sides[1])
    if isinstance(delta, InputScale):
        return None if delta.slot in ("wo", "w2") else math.prod(delta.scale.shape)
    if isinstance(delta, Bias):
        return math.prod(delta.bias.shape) if delta.slot in ("wo", "w2") else None
    if isinstance(delta, NormGain):
        return math.prod(delta.gain.shape)
    if isinstance(delta, Replaced):
        return None
    return delta.rows.shape[-1]


def floats(record: TensorRecord) -> Floats:
    """A record's values as float32 in its shape.

    Raises:
        CheckpointError: they are no floating-point numbers, or not finite.
    """
    if record.dtype == "f64":
        with np.errstate(over="ignore"):  # seen below
            values = record.read().view("<f8").astype(np.float32)
    elif STORED[record.dtype].runs:
        values = _native.decode(record.read().data, record.dtype, math.prod(record.shape))
    else:
        msg = f"{record.file}: tensor {record.name!r} is stored as {record.dtype}; floats expected"
        raise CheckpointError(msg)
    if not np.isfinite(values).all():
        msg = f"{record.file}: tensor {record.name!r} holds numbers that are not finite"
        raise CheckpointError(msg)
    return values.reshape(record.shape)


def attach(
    file: AdapterFile, model: _native.Model, config: ModelConfig, base: Checkpoint
) -> _native.Adapter:
    """Makes the native adapter of a file for a loaded model.

    Args:
        file: the adapter.
        model: finished weights.
        config: the model's sizes.
        base: the model's checkpoint, for biases that an adapter replaces.

    Raises:
        CheckpointError: it was made for a model of other sizes; both shapes are named.
        CapacityError: it holds more than a model takes, such as a prefix of too many positions.
    """
    check_pairing(file, config)
    if file.merges:
        msg = f"{file.path}: {file.kind} is merged into weights before they are loaded"
        raise CheckpointError(msg)
    adapter = _native.Adapter(model)
    for delta in file.deltas:
        try:
            _add(adapter, delta, rope_permutation(file, config), config, base)
        except ShapeError as error:
            msg = f"{file.path}: made for a model of other sizes: {error}"
            raise CheckpointError(msg) from None
        except CapacityError as error:
            msg = f"{file.path}: {error}"
            raise CapacityError(msg) from None
    return adapter


def check_pairing(file: AdapterFile, config: ModelConfig) -> None:
    """Refuses an adapter for a model of another width or depth.

    Raises:
        CheckpointError: both sizes are named.
    """
    width = file.dim
    if width is not None and width != config.dim:
        msg = (
            f"{file.path}: {file.kind} for a model of width {width}{_size(width)}, but the model's "
            f"is {config.dim}{_size(config.dim)}"
        )
        raise CheckpointError(msg)
    if file.base_layers not in (None, config.n_layers):
        msg = (
            f"{file.path}: {file.kind} for a model of {file.base_layers} layers, but the model has "
            f"{config.n_layers}"
        )
        raise CheckpointError(msg)
    if file.vocab not in (None, config.vocab_size):
        msg = (
            f"{file.path}: {file.kind} for a model of {file.vocab} tokens, but the model has "
            f"{config.vocab_size}"
        )
        raise CheckpointError(msg)
    if file.n_layers > config.n_layers:
        msg = (
            f"{file.path}: {file.kind} that changes layer {file.n_layers - 1}, but the model has "
            f"{config.n_layers} layers: it was made for another model"
        )
        raise CheckpointError(msg)


def _size(width: int) -> str:
    name = SIZES.get(width)
    return f" ({name})" if name else ""


_Permute = Callable[[Floats, str], Floats]


def rope_permutation(file: AdapterFile, config: ModelConfig) -> _Permute:
    """Brings rows of wq and wk from the file's rotary order into the model's."""
    if file.rope_style in (None, config.rope_style):
        return lambda rows, _: rows
    make = to_interleaved if config.rope_style == "interleaved" else to_half_split
    heads = {"wq": config.n_heads, "wk": config.n_kv_heads}

    def permute(rows: Floats, slot: str) -> Floats:
        if slot not in heads:
            return rows
        if rows.shape[0] != heads[slot] * config.head_dim:
            msg = f"{slot} has {rows.shape[0]} rows, the model {heads[slot] * config.head_dim}"
            raise ShapeError(msg)
        return np.ascontiguousarray(rows[make(heads[slot], config.head_dim)])

    return permute


def _add(
    adapter: _native.Adapter,
    delta: AdapterDelta,
    permute: _Permute,
    config: ModelConfig,
    base: Checkpoint,
) -> None:
    if isinstance(delta, Lora):
        a, b = floats(delta.a), permute(floats(delta.b), delta.slot)
        if delta.slot == "tok_embeddings":
            adapter.add_embedding_lora(b, np.ascontiguousarray(a.T), delta.scale)
        elif delta.slot == "output":
            adapter.add_output_lora(a, b, delta.scale)
        else:
            adapter.add_lora(delta.layer, delta.slot, a, b, delta.scale)
    elif isinstance(delta, Bias):
        bias = permute(floats(delta.bias).reshape(-1) * np.float32(delta.scale), delta.slot)
        if delta.replaces:
            bias = bias - _base_bias(delta, base, bias.shape)
        adapter.add_bias(delta.layer, delta.slot, bias)
    elif isinstance(delta, InputScale):
        adapter.add_input_scale(delta.layer, delta.slot, floats(delta.scale).reshape(-1))
    elif isinstance(delta, NormGain):
        adapter.replace_norm(delta.layer, delta.norm, floats(delta.gain).reshape(-1))
    elif isinstance(delta, Prefix):
        gate = floats(delta.gate).reshape(-1)
        gate = np.tanh(gate) if delta.tanh else gate
        gate = np.ascontiguousarray(
            np.broadcast_to(gate, (config.n_heads,)) if gate.size == 1 else gate
        )
        rows = floats(delta.rows).reshape(-1, delta.rows.shape[-1])
        adapter.add_prefix(delta.layer, rows[delta.start : delta.stop], gate)


def module_of(delta: Lora | Bias) -> str:
    """Canonical name of the linear that is changed, without `.weight` or `.bias`."""
    if delta.layer < 0:
        return delta.slot
    part = "attention" if delta.slot in ("wq", "wk", "wv", "wo") else "feed_forward"
    return f"layers.{delta.layer}.{part}.{delta.slot}"


def transposed(record: TensorRecord) -> TensorRecord:
    """A matrix with its axes exchanged, as float32, made when it is read."""

    def prepare() -> MakeRows:
        values = np.ascontiguousarray(floats(record).T)
        return lambda start, stop: values[start:stop]

    return computed_record(record.name, record.file, "f32", record.shape[::-1], prepare)


def _base_bias(delta: Bias, base: Checkpoint, shape: tuple[int, ...]) -> Floats:
    record = base.tensors.get(f"{module_of(delta)}.bias")
    return np.zeros(shape, np.float32) if record is None else floats(record)
