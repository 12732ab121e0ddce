"""Merging LoRA into a checkpoint: `W' = W + scale * B A`, tensor by tensor when it is read.

The product is taken in float64 and rounded once, to the type of the weights (float32 where those
are quantized, so that whatever is written is rounded from the exact sum).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from llama_rt.adapters.patches import (
    AdapterFile,
    Bias,
    Lora,
    check_pairing,
    floats,
    module_of,
    turn_for,
)
from llama_rt.config import ModelConfig
from llama_rt.errors import CheckpointError
from llama_rt.loading.checkpoint import Checkpoint, TensorRecord
from llama_rt.loading.computed import Floats, MakeRows, computed_record, stored_rows

__all__ = ["merge"]

_FLOATS = ("f32", "f16", "bf16")


def merge(checkpoint: Checkpoint, files: Sequence[AdapterFile]) -> Checkpoint:
    """The checkpoint with adapters added to its weights.

    Args:
        checkpoint: the base.
        files: LoRA, in the order in which they are added.

    Raises:
        CheckpointError: an adapter was made for another model; or it is no sum of weights, so it
            can only run beside them.
    """
    tensors = dict(checkpoint.tensors)
    for file in files:
        check_pairing(file, checkpoint.config)
        for patch in file.patches:
            if not isinstance(patch, (Lora, Bias)):
                msg = (
                    f"{file.path}: {file.kind} cannot be merged into weights; keep it as it is and "
                    "give it with --adapter when the model runs"
                )
                raise CheckpointError(msg)
            kind = "weight" if isinstance(patch, Lora) else "bias"
            name = f"{module_of(patch)}.{kind}"
            if patch.layer < 0 and "output.weight" not in tensors:
                msg = (
                    f"{file.path}: it changes {patch.slot!r}, which is embedding and output at "
                    "once in this model; keep it as it is and give it with --adapter"
                )
                raise CheckpointError(msg)
            if name not in tensors:
                msg = (
                    f"{file.path}: it brings the bias {name!r}, which the model has not; it cannot "
                    "be merged: give it with --adapter when the model runs"
                )
                raise CheckpointError(msg)
            tensors[name] = _patched(file, patch, tensors[name], checkpoint.config)
    return replace(checkpoint, tensors=tensors)


def _patched(
    file: AdapterFile, patch: Lora | Bias, record: TensorRecord, config: ModelConfig
) -> TensorRecord:
    if isinstance(patch, Lora):
        shape: tuple[int, ...] = (patch.b.shape[0], patch.a.shape[1])
    else:
        shape = (int(np.prod(patch.bias.shape)),)
    if shape != record.shape:
        msg = (
            f"{file.path}: its product for {record.name!r} has shape {list(shape)}, but the "
            f"model's has {list(record.shape)}"
        )
        raise CheckpointError(msg)
    dtype = record.dtype if record.dtype in _FLOATS else "f32"
    prepare = (
        partial(_lora_rows, file, patch, record, config)
        if isinstance(patch, Lora)
        else partial(_bias_rows, file, patch, record, config)
    )
    return computed_record(record.name, record.file, dtype, record.shape, prepare)


def _lora_rows(
    file: AdapterFile, patch: Lora, record: TensorRecord, config: ModelConfig
) -> MakeRows:
    stored = stored_rows(record)
    a = floats(patch.a).astype(np.float64)
    b = turn_for(file, config)(floats(patch.b), patch.slot).astype(np.float64) * patch.scale

    def make(start: int, stop: int) -> Floats:
        return (stored(start, stop) + b[start:stop] @ a).astype(np.float32)

    return make


def _bias_rows(
    file: AdapterFile, patch: Bias, record: TensorRecord, config: ModelConfig
) -> MakeRows:
    stored = stored_rows(record)
    bias = turn_for(file, config)(floats(patch.bias).reshape(-1), patch.slot) * patch.scale

    def make(start: int, stop: int) -> Floats:
        return (bias[None] + (0 if patch.replaces else stored(start, stop))).astype(np.float32)

    return make
