"""Meta's folders: params.json and consolidated.NN.pth, one per model-parallel shard.

Mistral's own layout is the same with all tensors in `consolidated.safetensors`.

Every shard holds a slice of every matrix. The axis of a slice follows from the layer class that
owns it (llama `model.py`); the embedding's differs between releases and is told by its shape.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from llama_rt.checkpoint.assemble import rename, verify
from llama_rt.checkpoint.checkpoint import Checkpoint
from llama_rt.checkpoint.names import from_meta_name
from llama_rt.config import check_params, from_meta
from llama_rt.errors import CheckpointError
from llama_rt.files import kind_of, names_in, read_json
from llama_rt.formats.pth import read_pth
from llama_rt.formats.records import Columns, Stack, TensorRecord
from llama_rt.formats.safetensors import read_safetensors

__all__ = ["MISTRAL_FILE", "is_meta_folder", "open_meta"]

MISTRAL_FILE = "consolidated.safetensors"
_SHARD = re.compile(r"consolidated\.(\d+)\.pth")
_COLUMNS = ("attention.wo.weight", "feed_forward.w2.weight")
_WHOLE = ("norm.weight", "wo.bias", "w2.bias")  # every shard has all of it
_KEYS = ("attention.wk", "attention.wv")


def is_meta_folder(folder: Path) -> bool:
    """True if the folder has params.json and at least one shard."""
    return kind_of(folder / "params.json") != "nothing" and bool(_shards(folder))


def _shards(folder: Path) -> list[Path]:
    found = [(int(match[1]), name) for name in names_in(folder)
             if (match := _SHARD.fullmatch(name))]  # fmt: skip
    if not found and kind_of(folder / MISTRAL_FILE) != "nothing":
        return [folder / MISTRAL_FILE]
    return [folder / name for _, name in sorted(found)]


def open_meta(folder: Path) -> Checkpoint:
    """Opens a folder as Meta released it, with any number of shards.

    Raises:
        CheckpointError: a shard is missing or damaged, or shards do not fit together.
        ConfigError: params.json does not describe a model.
    """
    files = _shards(folder)
    for index, file in enumerate(files):
        if file.name not in (f"consolidated.{index:02d}.pth", MISTRAL_FILE):
            msg = f"{folder}: shard consolidated.{index:02d}.pth is missing; {file.name} is there"
            raise CheckpointError(msg)
    params_path = folder / "params.json"
    params = read_json(params_path)
    check_params(params, params_path)
    raw = [
        read_safetensors(file).tensors if file.name == MISTRAL_FILE else read_pth(file)
        for file in files
    ]
    llama2 = _is_llama2(raw[0], params)
    shards = [rename(tensors, from_meta_name) for tensors in raw]
    for file, shard in zip(files, shards, strict=True):
        if shard.keys() != shards[0].keys():
            name = sorted(shard.keys() ^ shards[0].keys())[0]
            msg = f"{file}: tensor {name!r} is not in all {len(files)} shards"
            raise CheckpointError(msg)
    dim = _dim(params)
    merged = {name: _merge(name, [shard[name] for shard in shards], dim) for name in shards[0]}
    biases = [name for name in merged if name.endswith(".bias")]
    config = from_meta(
        params,
        source=params_path,
        vocab_size=_rows(merged, "output.weight") or _rows(merged, "tok_embeddings.weight"),
        ffn_dim=_rows(merged, "layers.0.feed_forward.w1.weight"),
        n_kv_heads=_repeated_heads(merged, params, len(files)),
        llama2=llama2,
        attention_bias=any(".attention." in name for name in biases),
        mlp_bias=any(".feed_forward." in name for name in biases),
    )
    tensors = verify(merged, config, folder, lambda name: name, optional_biases=True)
    return Checkpoint(folder, "meta", config, tensors, params, tuple(files))


def _dim(params: Mapping[str, object]) -> object:
    nested = params.get("model")
    return (nested if isinstance(nested, dict) else params).get("dim")


def _rows(tensors: Mapping[str, TensorRecord], name: str) -> int | None:
    record = tensors.get(name)
    return record.shape[0] if record is not None and record.shape else None


def _is_llama2(tensors: Mapping[str, TensorRecord], params: Mapping[str, object]) -> bool:
    """LLaMA 1 and 2 differ in context, which no key tells; the files do.

    Llama 2 keeps its rotary buffer at the top, LLaMA 1 in every layer; without either, bf16
    weights or keys that came with Llama 2 decide.
    """
    if "rope.freqs" in tensors:
        return True
    if "layers.0.attention.inner_attention.rope.freqs" in tensors:
        return False
    first = tensors.get("layers.0.attention.wq.weight")
    return "n_kv_heads" in params or (first is not None and first.dtype == "bf16")


def _repeated_heads(
    tensors: Mapping[str, TensorRecord], params: Mapping[str, object], shards: int
) -> int | None:
    """Key/value heads when each shard got its own copy of one, else None.

    With more shards than heads, Meta repeats heads: the concatenation is a correct model with as
    many heads as shards (llama-models `checkpoint.py`).
    """
    nested = params.get("model")
    values = nested if isinstance(nested, dict) else params
    dim, heads, stated = values.get("dim"), values.get("n_heads"), values.get("n_kv_heads")
    rows = _rows(tensors, "layers.0.attention.wk.weight")
    numbers = (dim, heads, stated, rows)
    if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in numbers):
        return None
    assert isinstance(dim, int)
    assert isinstance(heads, int)
    assert isinstance(stated, int)
    head_dim = dim // heads
    repeated = stated < shards and heads % shards == 0 and rows == shards * head_dim
    return shards if repeated else None


def _merge(name: str, parts: list[TensorRecord], dim: object) -> TensorRecord:
    """One record of all shards' slices."""
    first = parts[0]
    for part in parts:
        if part.dtype != first.dtype or part.shape != first.shape:
            msg = (
                f"{part.file}: tensor {name!r} is {part.dtype} {list(part.shape)}, but "
                f"{first.dtype} {list(first.shape)} in {first.file.name}"
            )
            raise CheckpointError(msg)
    if len(parts) == 1 or name.endswith(_WHOLE):
        return first
    if not first.shape:
        return first
    sources = tuple(part.source for part in parts)
    if len(first.shape) == 2 and first.shape[0]:
        rows, columns = first.shape
        if name.endswith(_COLUMNS) or (
            name == "tok_embeddings.weight" and columns * len(parts) == dim
        ):
            merged = (rows, columns * len(parts))
            return TensorRecord(name, first.dtype, merged, first.file, Columns(sources, rows))
    stacked = (first.shape[0] * len(parts), *first.shape[1:])
    return TensorRecord(name, first.dtype, stacked, first.file, Stack(sources))
