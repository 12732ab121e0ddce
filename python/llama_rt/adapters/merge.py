"""Merging LoRA into a checkpoint: `W' = W + scale * B A`, tensor by tensor when it is read.

The product is taken in float64 and rounded once, to the type of the weights (float32 where those
are quantized, so that whatever is written is rounded from the exact sum).
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
    check_pairing,
    floats,
    module_of,
    rope_permutation,
)
from llama_rt.checkpoint.checkpoint import Checkpoint
from llama_rt.checkpoint.computed import Floats, MakeRows, computed_record, stored_rows
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
    tensors = dict(checkpoint.tensors)
    for file in files:
        check_pairing(file, checkpoint.config)
        for delta in file.deltas:
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
    return replace(checkpoint, tensors=tensors)


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
    b = rope_permutation(file, config)(floats(delta.b), delta.slot).astype(np.float64) * delta.scale

    def make(start: int, stop: int) -> Floats:
        return (stored(start, stop) + b[start:stop] @ a).astype(np.float32)

    return make


def _bias_rows(
    file: AdapterFile, delta: Bias, record: TensorRecord, config: ModelConfig
) -> MakeRows:
    stored = stored_rows(record)
    bias = rope_permutation(file, config)(floats(delta.bias).reshape(-1), delta.slot) * delta.scale

    def make(start: int, stop: int) -> Floats:
        return (bias[None] + (0 if delta.replaces else stored(start, stop))).astype(np.float32)

    return make
