"""Merging adapters into a checkpoint: `W' = W + scale * B A`, tensor by tensor when it is read.

DoRA scales each row of that sum to a length of its own; whole tensors, or rows of tables, that were
saved with an adapter stand in place of the base's, and may make the vocabulary larger. The product
is taken in float64 and rounded once, to the type of the weights (float32 where those are quantized,
so that whatever is written is rounded from the exact sum).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from llama_rt.adapters.deltas import (
    AdapterFile,
    Bias,
    Lora,
    Replaced,
    check_pairing,
    floats,
    module_of,
    rope_permutation,
)
from llama_rt.checkpoint.checkpoint import Checkpoint
from llama_rt.checkpoint.computed import Floats, MakeRows, computed_record, stored_rows
from llama_rt.checkpoint.names import to_hf_name
from llama_rt.config import ModelConfig
from llama_rt.errors import CheckpointError
from llama_rt.formats.records import TensorRecord

__all__ = ["merge"]

_FLOATS = ("f32", "f16", "bf16")


def merge(checkpoint: Checkpoint, files: Sequence[AdapterFile]) -> Checkpoint:
    """The checkpoint with adapters added to its weights.

    Args:
        checkpoint: the base.
        files: LoRA, in the order in which they are added.

    Raises:
        CheckpointError: an adapter was made for another model; or it is no sum of weights, so it
            can only be applied at run time.
    """
    for file in files:
        checkpoint = _with_replaced(checkpoint, file)
        tensors = dict(checkpoint.tensors)
        check_pairing(file, checkpoint.config)
        for delta in file.deltas:
            if isinstance(delta, Replaced):
                continue
            if not isinstance(delta, (Lora, Bias)):
                msg = (
                    f"{file.path}: {file.kind} cannot be merged into weights; keep it as it is and "
                    "give it with --adapter when the model runs"
                )
                raise CheckpointError(msg)
            kind = "weight" if isinstance(delta, Lora) else "bias"
            name = f"{module_of(delta)}.{kind}"
            if delta.layer < 0 and "output.weight" not in tensors:
                msg = (
                    f"{file.path}: it changes {delta.slot!r}, which is embedding and output at "
                    "once in this model; keep it as it is and give it with --adapter"
                )
                raise CheckpointError(msg)
            if name not in tensors:
                msg = (
                    f"{file.path}: it brings the bias {name!r}, which the model has not; it cannot "
                    "be merged: give it with --adapter when the model runs"
                )
                raise CheckpointError(msg)
            tensors[name] = _with_delta(file, delta, tensors[name], checkpoint.config)
        checkpoint = replace(checkpoint, tensors=tensors)
    return checkpoint


_TABLES = ("tok_embeddings.weight", "output.weight")


def _with_replaced(checkpoint: Checkpoint, file: AdapterFile) -> Checkpoint:
    """The checkpoint with an adapter's whole tensors and rows in place of its own."""
    tensors, config = dict(checkpoint.tensors), checkpoint.config
    for delta in file.deltas:
        if not isinstance(delta, Replaced):
            continue
        base = tensors.get(delta.name)
        if base is None and delta.name == "output.weight":  # tied to the embedding until now
            base = tensors["tok_embeddings.weight"]
            config = replace(config, tie_embeddings=False, bare=False)
        if base is None:
            msg = f"{file.path}: it brings {delta.name!r}, which the model has not"
            raise CheckpointError(msg)
        value = delta.value
        width = value.shape[1:] == base.shape[1:]
        fits = width if delta.rows is not None else value.shape == base.shape
        if delta.rows is None and delta.name in _TABLES:
            fits = width and len(value.shape) == 2 and value.shape[0] >= base.shape[0]
        if not fits or max(delta.rows or (0,)) >= base.shape[0]:
            msg = (
                f"{file.path}: its {to_hf_name(delta.name)!r} has shape {list(value.shape)}, but "
                f"the model's has {list(base.shape)}"
            )
            raise CheckpointError(msg)
        prepare = partial(_replaced_rows, file, delta, base, config)
        dtype = base.dtype if base.dtype in _FLOATS and delta.rows is not None else "f32"
        shape = base.shape if delta.rows is not None else value.shape
        tensors[delta.name] = computed_record(delta.name, value.file, dtype, shape, prepare)
    tables = [tensors[name] for name in _TABLES if name in tensors]
    if len({table.shape for table in tables}) > 1:
        msg = (
            f"{file.path}: it makes the vocabulary {tables[0].shape[0]} tokens in the embedding, "
            f"but {tables[1].shape[0]} in the output"
        )
        raise CheckpointError(msg)
    config = replace(config, vocab_size=tables[0].shape[0])
    return replace(checkpoint, tensors=tensors, config=config)


def _replaced_rows(
    file: AdapterFile, delta: Replaced, base: TensorRecord, config: ModelConfig
) -> MakeRows:
    value = floats(delta.value)
    if delta.rows is None:
        slot = delta.name.removesuffix(".weight").rpartition(".")[2]
        whole = rope_permutation(file, config)(value.reshape(-1, value.shape[-1]), slot)
        return lambda start, stop: whole[start:stop]
    stored = stored_rows(base)
    rows = np.array(delta.rows)

    def make(start: int, stop: int) -> Floats:
        out: Floats = stored(start, stop).copy()
        inside = (rows >= start) & (rows < stop)
        out[rows[inside] - start] = value[inside]
        return out

    return make


def _with_delta(
    file: AdapterFile, delta: Lora | Bias, record: TensorRecord, config: ModelConfig
) -> TensorRecord:
    if isinstance(delta, Lora):
        shape: tuple[int, ...] = (delta.b.shape[0], delta.a.shape[1])
    else:
        shape = (int(np.prod(delta.bias.shape)),)
    if shape != record.shape:
        msg = (
            f"{file.path}: its product for {record.name!r} has shape {list(shape)}, but the "
            f"model's has {list(record.shape)}"
        )
        raise CheckpointError(msg)
    dtype = record.dtype if record.dtype in _FLOATS else "f32"
    prepare = (
        partial(_lora_rows, file, delta, record, config)
        if isinstance(delta, Lora)
        else partial(_bias_rows, file, delta, record, config)
    )
    return computed_record(record.name, record.file, dtype, record.shape, prepare)


def _lora_rows(
    file: AdapterFile, delta: Lora, record: TensorRecord, config: ModelConfig
) -> MakeRows:
    stored = stored_rows(record)
    a = floats(delta.a).astype(np.float64)
    permute = rope_permutation(file, config)
    b = permute(floats(delta.b), delta.slot).astype(np.float64) * delta.scale
    lengths = None
    if delta.magnitude is not None:
        lengths = permute(floats(delta.magnitude).reshape(-1, 1), delta.slot).astype(np.float64)

    def make(start: int, stop: int) -> Floats:
        rows = stored(start, stop) + b[start:stop] @ a
        if lengths is not None:
            rows *= lengths[start:stop] / np.linalg.norm(rows, axis=1, keepdims=True)
        return rows.astype(np.float32)

    return make


def _bias_rows(
    file: AdapterFile, delta: Bias, record: TensorRecord, config: ModelConfig
) -> MakeRows:
    stored = stored_rows(record)
    bias = rope_permutation(file, config)(floats(delta.bias).reshape(-1), delta.slot) * delta.scale

    def make(start: int, stop: int) -> Floats:
        return (bias[None] + (0 if delta.replaces else stored(start, stop))).astype(np.float32)

    return make
