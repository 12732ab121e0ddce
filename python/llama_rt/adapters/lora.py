"""LoRA as PEFT writes it (also Alpaca-LoRA, Baize, GPT4All-LoRA), and LoRA in GGUF.

Formats: huggingface/peft `src/peft/tuners/lora`, `src/peft/utils/save_and_load.py`; llama.cpp
`src/llama-adapter.cpp`, `convert_lora_to_gguf.py`. `W' = W + scale * B A`, scale = alpha / rank,
or alpha / sqrt(rank) with rsLoRA.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

from llama_rt.adapters.deltas import (
    AdapterDelta,
    AdapterFile,
    Bias,
    Lora,
    Replaced,
    transposed,
)
from llama_rt.adapters.patterns import values_by_module
from llama_rt.checkpoint.names import from_gguf_name, from_hf_name, to_hf_name
from llama_rt.config.checked_keys import shown
from llama_rt.config.model_config import MAX_NUMBER
from llama_rt.errors import CheckpointError
from llama_rt.files import kind_of
from llama_rt.formats.gguf import read_gguf
from llama_rt.formats.pth import read_pth
from llama_rt.formats.records import TensorRecord
from llama_rt.formats.safetensors import read_safetensors

__all__ = ["open_gguf_lora", "open_peft_lora", "read_weights"]

_WEIGHT = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+?)\.lora_(?P<part>A|B)(?:\.[^.]+)?\.(?P<kind>weight|bias)"
)
_EMBEDDING = re.compile(
    r"(?:base_model\.model\.)?(?P<module>model\.embed_tokens)\.lora_embedding_(?P<part>A|B)(?:\.[^.]+)?"
)
# The base's own tables, which peft saves together with factors of them.
_TABLE = re.compile(r"(?:base_model\.model\.)?(?:model\.embed_tokens|lm_head)\.base_layer\.weight")
_MAGNITUDE = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+?)\.lora_magnitude_vector(?:\.(?!weight)[^.]+)?(?:\.weight)?"
)
_TOKENS = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+?)(?:\.token_adapter)?\.trainable_tokens_delta(?:\.[^.]+)?"
)
# A module that was trained as a whole (modules_to_save), or a table that was enlarged.
_WHOLE = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+?)(?:\.modules_to_save(?:\.[^.]+)?)?\.weight"
)
_PLAIN = re.compile(r"(?:base_model\.model\.)?(?P<module>.+?)(?:\.base_layer)?\.bias")
_SLOT = re.compile(r"layers\.(\d+)\.(?:attention|feed_forward)\.(w[qkvo123])\.(?:weight|bias)")
_REFUSED = {
    "layer_replication": "replicated layers (layer_replication)",
    "alora_invocation_tokens": "LoRA that sets in at certain tokens (alora_invocation_tokens)",
}
# Ways to begin training that first take something away from the base's own weights.
_CHANGES_BASE = re.compile(r"(pissa|olora|corda|loftq|lora_ga)", re.IGNORECASE)


def read_weights(folder: Path) -> dict[str, TensorRecord]:
    """The tensors of `adapter_model.safetensors` or `adapter_model.bin`.

    Raises:
        CheckpointError: neither is there, or it is damaged, or it is empty.
    """
    for name in ("adapter_model.safetensors", "adapter_model.bin"):
        path = folder / name
        if kind_of(path) == "nothing":
            continue
        records = (
            dict(read_safetensors(path).tensors)
            if path.suffix == ".safetensors"
            else read_pth(path)
        )
        if not records:
            msg = f"{path}: an empty adapter, without a single tensor; it was saved wrongly"
            raise CheckpointError(msg)
        return records
    msg = f"{folder}: adapter_config.json without adapter_model.safetensors or adapter_model.bin"
    raise CheckpointError(msg)


def open_peft_lora(folder: Path, config: Mapping[str, object]) -> AdapterFile:
    """A PEFT folder of type LORA.

    Raises:
        CheckpointError: damaged, or a variant that is not computed; says which.
    """
    source = folder / "adapter_config.json"
    for key, what in _REFUSED.items():
        if config.get(key):
            msg = f"{source}: {what} is not supported"
            raise CheckpointError(msg)
    beginning = config.get("init_lora_weights")
    if isinstance(beginning, str) and _CHANGES_BASE.match(beginning):
        msg = (
            f"{source}: init_lora_weights {beginning[:20]!r} changed the base's weights before "
            "training, so the adapter does not fit the base as it is; have peft convert it "
            "(path_initial_model_for_weight_conversion) to plain LoRA"
        )
        raise CheckpointError(msg)
    records, replaced = _replaced(source, config, read_weights(folder))
    pairs, biases = _sorted(folder, records)
    _check_promised(source, config, replaced, pairs)
    # Places first: they leave names that a model has, short ones, to be matched with patterns.
    places = {name: _place(folder, name, from_hf_name(f"{name}.weight")) for name in pairs}
    ranks = values_by_module(source, config, "r", places)
    alphas = values_by_module(source, config, "lora_alpha", places)
    deltas: list[AdapterDelta] = []
    for module, parts in pairs.items():
        scaling = (alphas[module], bool(config.get("use_rslora")), int(ranks[module]))
        deltas += _lora_deltas(folder, module, places[module], parts, scaling)
    for module, record in biases:
        layer, slot = _place(folder, module, from_hf_name(f"{module}.bias"))
        deltas.append(Bias(layer, slot, record, replaces=True))
    deltas += replaced
    found = sorted({delta.a.shape[0] for delta in deltas if isinstance(delta, Lora)})
    name = "DoRA" if any("magnitude" in parts for parts in pairs.values()) else "LoRA"
    kind = f"{name} of rank {', '.join(map(str, found))}" if found else "adapter"
    kind += f" with {len(replaced)} whole tensors" if replaced else ""
    return AdapterFile(folder, kind, "halves", tuple(deltas))


def _check_promised(
    source: Path,
    config: Mapping[str, object],
    replaced: list[AdapterDelta],
    pairs: Mapping[str, Mapping[str, TensorRecord]],
) -> None:
    """Refuses a file without tensors that its configuration speaks of."""
    for name, parts in pairs.items():
        if config.get("use_dora") and "magnitude" not in parts:
            msg = f"{source}: DoRA (use_dora), but {name} has no lora_magnitude_vector"
            raise CheckpointError(msg)
    given = config.get("modules_to_save") or []
    whole: list[object] = given if isinstance(given, list) else [given]
    names = [to_hf_name(delta.name) for delta in replaced if isinstance(delta, Replaced)]
    for module in whole:
        if not any(f".{module}." in f".{name}" for name in names):
            msg = f"{source}: modules_to_save names {shown(module)}, of which no tensor is stored"
            raise CheckpointError(msg)


def _replaced(
    source: Path, config: Mapping[str, object], records: Mapping[str, TensorRecord]
) -> tuple[dict[str, TensorRecord], list[AdapterDelta]]:
    """Takes out what stands in place of the base's own tensors; returns the rest, and these."""
    rest: dict[str, TensorRecord] = {}
    found: list[AdapterDelta] = []
    for name, record in records.items():
        tokens, whole = _TOKENS.fullmatch(name), _WHOLE.fullmatch(name)
        match = tokens or whole
        canonical = from_hf_name(f"{match['module']}.weight") if match else None
        if match is None or canonical is None:
            rest[name] = record
            continue
        layer = int(canonical.split(".")[1]) if canonical.startswith("layers.") else -1
        rows = _token_rows(source, config, match["module"], record) if tokens else None
        found.append(Replaced(layer, canonical, record, rows))
    return rest, found


def _token_rows(
    source: Path, config: Mapping[str, object], module: str, record: TensorRecord
) -> tuple[int, ...]:
    """Which rows of a table `trainable_tokens_delta` holds: a list, or lists by module."""
    given = config.get("trainable_token_indices", config.get("token_indices"))
    if isinstance(given, dict):
        last = module.rpartition(".")[2]
        given = given.get(module, given.get(last))
    good = isinstance(given, list) and all(type(id) is int and id >= 0 for id in given)
    if not isinstance(given, list) or not good or record.shape[:1] != (len(given),):
        msg = (
            f"{source}: trainable_token_indices names no rows for {module!r}, of which "
            f"{record.shape[0] if record.shape else 0} are stored"
        )
        raise CheckpointError(msg)
    return tuple(given)


_Parts = dict[str, TensorRecord]


def _sorted(
    folder: Path, records: Mapping[str, TensorRecord]
) -> tuple[dict[str, _Parts], list[tuple[str, TensorRecord]]]:
    """Factors by module, and biases that stand for the base's own."""
    pairs: dict[str, _Parts] = {}
    biases: list[tuple[str, TensorRecord]] = []
    for name, record in records.items():
        if match := _EMBEDDING.fullmatch(name):
            # x += (a^T)[token] b^T: as a sum of weights [vocab, dim] the factors change places
            part, given = "BA"["AB".index(match["part"])], transposed(record)
        elif (match := _WEIGHT.fullmatch(name)) and match["module"] != "model.embed_tokens":
            part = match["part"] if match["kind"] == "weight" else match["part"] + ".bias"
            given = record
        elif match := _MAGNITUDE.fullmatch(name):
            part, given = "magnitude", record
        elif match := _PLAIN.fullmatch(name):
            biases.append((match["module"], record))
            continue
        elif _TABLE.fullmatch(name):
            continue
        else:
            msg = f"{folder}: tensor {name!r} is no part of a LoRA on a linear layer"
            raise CheckpointError(msg)
        if part in pairs.setdefault(match["module"], {}):
            msg = f"{record.file}: {match['module']} has two of lora_{match['part']}"
            raise CheckpointError(msg)
        pairs[match["module"]][part] = given
    return pairs, biases


def _lora_deltas(
    path: Path,
    module: str,
    place: tuple[int, str],
    parts: Mapping[str, TensorRecord],
    scaling: tuple[float, bool, int],
) -> list[AdapterDelta]:
    layer, slot = place
    a, b = parts.get("A"), parts.get("B")
    if a is None or b is None:
        msg = f"{path}: {module} has only one of lora_A and lora_B"
        raise CheckpointError(msg)
    scale = _scale(path, module, a, b, scaling)
    magnitude = parts.get("magnitude")
    if magnitude is not None and (math.prod(magnitude.shape) != b.shape[0] or layer < 0):
        msg = (
            f"{path}: {module}: lora_magnitude_vector {list(magnitude.shape)} does not fit lora_B "
            f"{list(b.shape)}"
            if layer >= 0
            else f"{path}: DoRA on {module!r} is not supported; it is on linear layers"
        )
        raise CheckpointError(msg)
    deltas: list[AdapterDelta] = [Lora(layer, slot, a, b, scale, magnitude)]
    if "B.bias" in parts and layer < 0:
        msg = f"{path}: a bias (lora_bias) on {module!r} is not supported"
        raise CheckpointError(msg)
    if "B.bias" in parts:
        deltas.append(Bias(layer, slot, parts["B.bias"], scale))
    return deltas


def _scale(
    path: Path, module: str, a: TensorRecord, b: TensorRecord, scaling: tuple[float, bool, int]
) -> float:
    """Alpha over the rank, which the tensors decide; the config must agree with them."""
    alpha, rslora, expected = scaling
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
        msg = f"{path}: {module}: lora_A {list(a.shape)} and lora_B {list(b.shape)} do not fit"
        raise CheckpointError(msg)
    rank = a.shape[0]
    if rank < 1 or (expected and expected != rank):
        msg = f"{path}: {module}: rank {rank} in the tensors, {expected} in adapter_config.json"
        raise CheckpointError(msg)
    return alpha / (math.sqrt(rank) if rslora else rank)


def _place(path: Path, module: str, canonical: str | None) -> tuple[int, str]:
    if canonical in ("tok_embeddings.weight", "output.weight"):
        return -1, canonical.removesuffix(".weight")
    match = _SLOT.fullmatch(canonical or "")
    if not match:
        msg = (
            f"{path}: an adapter on {module!r} is not supported; the linear layers of attention "
            "and feed-forward are (q, k, v, o, gate, up, down), the embedding and the output"
        )
        raise CheckpointError(msg)
    return int(match[1]), match[2]


def open_gguf_lora(path: Path) -> AdapterFile:
    """A GGUF of `general.type` adapter: already in the interleaved rotary order.

    Raises:
        CheckpointError: damaged, of another type, or on layers that take no adapter.
    """
    file = read_gguf(path)
    kind = file.metadata.get("adapter.type")
    if file.metadata.get("general.type") != "adapter" or kind != "lora":
        msg = f"{path}: not a LoRA (general.type adapter, adapter.type lora)"
        raise CheckpointError(msg)
    architecture = file.metadata.get("general.architecture")
    if architecture != "llama":
        msg = f"{path}: an adapter for architecture {shown(architecture)}; llama is supported"
        raise CheckpointError(msg)
    alpha = file.metadata.get("adapter.lora.alpha", 0.0)
    if not isinstance(alpha, (int, float)) or not abs(alpha) <= MAX_NUMBER:
        msg = f"{path}: adapter.lora.alpha must be a number, got {shown(alpha)}"
        raise CheckpointError(msg)
    pairs: dict[str, dict[str, TensorRecord]] = {}
    for name, record in file.tensors.items():
        base, _, part = name.rpartition(".lora_")
        if part not in ("a", "b"):
            msg = f"{path}: tensor {name!r} is no part of a LoRA on a linear layer"
            raise CheckpointError(msg)
        pairs.setdefault(base, {})[part.upper()] = record
    deltas: list[AdapterDelta] = []
    for module, parts in pairs.items():
        layer, slot = _place(path, module, from_gguf_name(module))
        a, b = parts.get("A"), parts.get("B")
        if a is None or b is None:
            msg = f"{path}: {module} has only one of lora_a and lora_b"
            raise CheckpointError(msg)
        if slot == "tok_embeddings":  # a is looked up: [vocab, rank]; b is [dim, rank]
            a, b = transposed(b), a
        # alpha 0 or absent: the product as it is
        factor = _scale(path, module, a, b, (float(alpha) or float(a.shape[0]), False, 0))
        deltas.append(Lora(layer, slot, a, b, factor))
    if not deltas:
        msg = f"{path}: an empty adapter, without a single tensor"
        raise CheckpointError(msg)
    return AdapterFile(path, "LoRA (GGUF)", "interleaved", tuple(deltas))
