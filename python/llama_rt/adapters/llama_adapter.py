"""LLaMA-Adapter V1 and V2 as OpenGVLab published them, and PEFT's AdaptionPrompt.

Formats and formulas: OpenGVLab/LLaMA-Adapter `llama/model.py`, `llama_adapter_v2_chat65b`; peft
`src/peft/tuners/adaption_prompt`. Base order is Meta's. The gate of V1 is used as it is stored, as
the repository's demo does; its training code applies tanh, and so does this reader if asked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast

from llama_rt.adapters.deltas import (
    AdapterDelta,
    AdapterFile,
    Bias,
    InputScale,
    NormGain,
    NormName,
    Prefix,
)
from llama_rt.errors import CheckpointError
from llama_rt.formats.records import TensorRecord

__all__ = ["GateMode", "open_adaption_prompt", "open_llama_adapter"]

GateMode = Literal["raw", "tanh"]

_LAYER = r"layers\.(0|[1-9]\d{0,5})\."
_GATE = re.compile(_LAYER + r"attention\.gate")
_VECTOR = re.compile(_LAYER + r"(?:attention|feed_forward)\.(w[qkvo123])_(scale|bias)")
_NORM = re.compile(_LAYER + r"(attention_norm|ffn_norm)\.weight")
_PROMPT = re.compile(r".*?" + _LAYER + r"self_attn\.adaption_(prompt|gate)")
_LENGTH = re.compile(r"len(\d{1,6})")
_DEFAULT_LENGTH = 10


def open_llama_adapter(
    path: Path, records: Mapping[str, TensorRecord], gate: GateMode | None
) -> AdapterFile:
    """A `.pth` of LLaMA-Adapter V1 (prefixes and gates) or V2 (scales, biases, norms).

    Args:
        path: the file; `len10` in its name gives the length of the prefixes, else 10.
        records: its tensors.
        gate: how gates multiply; None is raw for V1, tanh for V2.

    Raises:
        CheckpointError: incomplete, or the multimodal V2, which is not defined without an image.
    """
    if any(name.startswith(("clip_proj", "visual_", "llama.")) for name in records):
        msg = (
            f"{path}: the multimodal LLaMA-Adapter V2, whose prefixes come from an image; without "
            "one the model is not defined, so it cannot be loaded"
        )
        raise CheckpointError(msg)
    deltas, gates = _vectors(path, records)
    version = 2 if deltas else 1
    query = records.get("adapter_query.weight")
    if query is not None:
        tanh = (gate or ("raw" if version == 1 else "tanh")) == "tanh"
        deltas += _prefixes(path, query, gates, tanh=tanh)
    if not deltas:
        msg = f"{path}: no tensors of a LLaMA-Adapter (adapter_query.weight, *_scale, *_bias)"
        raise CheckpointError(msg)
    layers = 1 + max([*gates, *(delta.layer for delta in deltas)])
    kind = f"LLaMA-Adapter V{version}"
    return AdapterFile(path, kind, "interleaved", tuple(deltas), base_layers=layers)


def _vectors(
    path: Path, records: Mapping[str, TensorRecord]
) -> tuple[list[AdapterDelta], dict[int, TensorRecord]]:
    deltas: list[AdapterDelta] = []
    gates: dict[int, TensorRecord] = {}
    for name, record in records.items():
        if match := _GATE.fullmatch(name):
            gates[int(match[1])] = record
        elif match := _VECTOR.fullmatch(name):
            layer, slot = int(match[1]), match[2]
            deltas.append(
                Bias(layer, slot, record) if match[3] == "bias" else InputScale(layer, slot, record)
            )
        elif match := _NORM.fullmatch(name):
            deltas.append(NormGain(int(match[1]), cast("NormName", match[2]), record))
        elif name != "adapter_query.weight":
            msg = f"{path}: tensor {name!r} is no part of a LLaMA-Adapter that is known"
            raise CheckpointError(msg)
    return deltas, gates


def _prefixes(
    path: Path, query: TensorRecord, gates: Mapping[int, TensorRecord], *, tanh: bool
) -> list[AdapterDelta]:
    """The last `rows / length` layers get a prefix each, in order."""
    named = _LENGTH.search(path.name)
    length = int(named[1]) if named else _DEFAULT_LENGTH
    whole = len(query.shape) == 2 and query.shape[1] > 0
    if not whole or length < 1 or query.shape[0] % length or not gates:
        msg = (
            f"{path}: adapter_query.weight {list(query.shape)} with {len(gates)} gates does not "
            f"hold prefixes of length {length}"
        )
        raise CheckpointError(msg)
    count = query.shape[0] // length
    n_layers = max(gates) + 1
    if count > n_layers:
        msg = f"{path}: prefixes for {count} layers but gates for {n_layers}"
        raise CheckpointError(msg)
    deltas: list[AdapterDelta] = []
    for i in range(count):
        layer = n_layers - count + i
        if layer not in gates:
            msg = f"{path}: layers.{layer}.attention.gate is missing"
            raise CheckpointError(msg)
        deltas.append(Prefix(layer, query, i * length, (i + 1) * length, gates[layer], tanh))
    return deltas


def open_adaption_prompt(
    folder: Path, records: Mapping[str, TensorRecord], gate: GateMode | None
) -> AdapterFile:
    """A PEFT folder of type ADAPTION_PROMPT; its gates are raw.

    Raises:
        CheckpointError: a layer has only one of prompt and gate, or of another shape than peft's,
            or there are other tensors.
    """
    layers: dict[int, dict[str, TensorRecord]] = {}
    for name, record in records.items():
        match = _PROMPT.fullmatch(name)
        if not match:
            msg = f"{folder}: tensor {name!r} is no part of an adaption prompt"
            raise CheckpointError(msg)
        parts = layers.setdefault(int(match[1]), {})
        if match[2] in parts:
            msg = f"{folder}: layer {match[1]} has two of adaption_{match[2]}"
            raise CheckpointError(msg)
        parts[match[2]] = record
    deltas: list[AdapterDelta] = []
    for layer, parts in sorted(layers.items()):
        if len(parts) != 2:
            msg = f"{folder}: layer {layer} has only one of adaption_prompt and adaption_gate"
            raise CheckpointError(msg)
        prompt = parts["prompt"]
        shape = prompt.shape
        if len(shape) < 2 or not all(shape) or math.prod(shape[:-2]) != 1:
            msg = f"{folder}: tensor {prompt.name!r} has shape {list(shape)}, not [1, length, dim]"
            raise CheckpointError(msg)
        deltas.append(Prefix(layer, prompt, 0, shape[-2], parts["gate"], gate == "tanh"))
    return AdapterFile(folder, "LLaMA-Adapter (PEFT adaption prompt)", None, tuple(deltas))
