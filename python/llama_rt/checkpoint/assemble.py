"""From a reader's tensors to a checkpoint: canonical names, nothing missing, every shape right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from llama_rt.checkpoint.names import expected_tensors, ignored
from llama_rt.config import ModelConfig
from llama_rt.errors import CheckpointError
from llama_rt.formats.dtypes import STORED
from llama_rt.formats.records import TensorRecord

__all__ = ["rename", "verify"]

_MAX_NAMED = 4


def rename(
    tensors: Mapping[str, TensorRecord], translate: Callable[[str], str | None]
) -> dict[str, TensorRecord]:
    """Tensors under canonical names; stored buffers are left out.

    Raises:
        CheckpointError: a tensor that this graph has no place for, or two for one place.
    """
    named: dict[str, TensorRecord] = {}
    for name, record in tensors.items():
        if ignored(name):
            continue
        canonical = translate(name)
        if canonical is None:
            msg = (
                f"{record.file}: tensor {name[:200]!r} has no place in a LLaMA model; "
                "it may belong to another architecture or to an adapter"
            )
            raise CheckpointError(msg)
        if canonical in named:
            msg = f"{record.file}: tensor {name[:200]!r} is there twice, in {named[canonical].file}"
            raise CheckpointError(msg)
        named[canonical] = replace(record, name=canonical)
    return named


def verify(
    tensors: Mapping[str, TensorRecord],
    config: ModelConfig,
    path: Path,
    spelling: Callable[[str], str],
    *,
    optional_biases: bool = False,
) -> dict[str, TensorRecord]:
    """Tensors in streaming order, checked against the configuration.

    Args:
        tensors: under canonical names.
        config: what they must fit.
        path: named in errors.
        spelling: the format's name of a canonical one, for errors.
        optional_biases: any bias may be there or not, whatever the configuration says.

    Raises:
        CheckpointError: tensors that are missing, of another shape or a type that cannot be
            computed with, or that the configuration does not ask for.
    """
    ordered: dict[str, TensorRecord] = {}
    missing: list[str] = []
    for name, shape, required in expected_tensors(config):
        record = tensors.get(name)
        is_bias = name.endswith(".bias")
        if record is None:
            if required and not (is_bias and optional_biases):
                missing.append(spelling(name))
                if len(missing) > _MAX_NAMED:
                    break
            continue
        _check(record, shape, spelling(name))
        if is_bias and not required and not optional_biases:
            msg = (
                f"{record.file}: tensor {spelling(name)!r} is there, "
                "but the configuration says no bias"
            )
            raise CheckpointError(msg)
        ordered[name] = record
    if missing:
        more = " and more" if len(missing) > _MAX_NAMED else ""
        msg = f"{path}: missing tensors: {', '.join(missing[:_MAX_NAMED])}{more}"
        raise CheckpointError(msg)
    left = [name for name in tensors if name not in ordered]
    if left:
        parts = left[0].split(".")
        known = parts[0] != "layers" or int(parts[1]) < config.n_layers
        place = "has no place in the model" if known else f"is beyond the {config.n_layers} layers"
        name = f"{tensors[left[0]].file}: tensor {spelling(left[0])!r}"
        msg = f"{name} {place} of the configuration"
        raise CheckpointError(msg)
    return ordered


def _check(record: TensorRecord, shape: tuple[int, ...], name: str) -> None:
    if record.shape != shape:
        msg = (
            f"{record.file}: tensor {name!r} has shape {list(record.shape)}, expected {list(shape)}"
        )
        raise CheckpointError(msg)
    if not STORED[record.dtype].runs:
        runs = ", ".join(row.name for row in STORED.values() if row.runs)
        msg = f"{record.file}: tensor {name!r} is stored as {record.dtype}; supported: {runs}"
        raise CheckpointError(msg)
    if record.name == "rope.divisors" and record.dtype != "f32":
        msg = f"{record.file}: tensor {name!r} is stored as {record.dtype}; f32 was expected"
        raise CheckpointError(msg)
