"""A LLaMA model in a file from before GGUF; names and rotary order are Meta's.

What the files do not say: epsilon (the models' own values are taken: 1e-6, but 1e-5 for 65B and
for Llama 2), context (2048; Llama 2: 4096), and which of the two a file of 7B or 13B is: a name
with `llama2` or `llama-2` in it, or fewer key/value heads than heads, makes it Llama 2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from llama_rt.checkpoint.assemble import rename, verify
from llama_rt.checkpoint.checkpoint import Checkpoint
from llama_rt.checkpoint.ggml_vocabulary import tokenizer_keys
from llama_rt.checkpoint.names import from_meta_name
from llama_rt.config import ModelConfig
from llama_rt.errors import CheckpointError, ConfigError
from llama_rt.files import kind_of
from llama_rt.formats.ggml import GgmlHeader, format_name, read_ggml
from llama_rt.formats.records import Columns, Source, Stack, TensorRecord

__all__ = ["open_ggml"]

_COLUMNS = ("tok_embeddings.weight", ".wo.weight", ".w2.weight")  # Meta's model-parallel slices
_LLAMA2 = re.compile(r"llama-?2", re.IGNORECASE)


def open_ggml(path: Path) -> Checkpoint:
    """Opens a file, and its other parts `name.1`, `name.2`, ... if it holds slices.

    Raises:
        CheckpointError: damaged, a part is missing, or a type that no longer exists.
        ConfigError: the header does not describe a model.
    """
    first = read_ggml(path, _is_name)
    header, tensors = first
    parts = [tensors]
    files = [path]
    for number in range(1, _part_count(path, header, tensors)):
        other = path.with_name(f"{path.name}.{number}")
        if kind_of(other) == "nothing":
            msg = f"{path}: holds slices of every matrix; part {other.name} is missing"
            raise CheckpointError(msg)
        its_header, its_tensors = read_ggml(other, _is_name)
        if replace(its_header, end=0) != replace(header, end=0):
            msg = f"{other}: its header differs from that of {path.name}: parts of another model"
            raise CheckpointError(msg)
        parts.append(its_tensors)
        files.append(other)
    merged = {name: _merge(name, [_of(p, name, f) for p, f in zip(parts, files, strict=True)])
              for name in tensors}  # fmt: skip
    named = rename(merged, from_meta_name)
    config = _config(path, header, named)
    metadata = {
        "general.architecture": "llama",
        "general.file_format": format_name(header),
        "llama.context_length": config.max_context,
        **tokenizer_keys(header.pieces, header.scores, config.vocab_size),
    }
    verified = verify(named, config, path, lambda name: name)
    return Checkpoint(path, "gguf", config, verified, metadata)


def _is_name(name: str) -> bool:
    return from_meta_name(name) is not None


# --- parts ---


def _part_count(path: Path, header: GgmlHeader, tensors: Mapping[str, TensorRecord]) -> int:
    embedding = tensors.get("tok_embeddings.weight")
    if embedding is None or len(embedding.shape) != 2:
        msg = f"{path}: missing tensors: tok_embeddings.weight"
        raise CheckpointError(msg)
    width = embedding.shape[1]
    if header.dim % width:
        msg = (
            f"{path}: 'tok_embeddings.weight' has shape {list(embedding.shape)}, which is no slice "
            f"of width {header.dim}"
        )
        raise CheckpointError(msg)
    return header.dim // width


def _of(part: Mapping[str, TensorRecord], name: str, file: Path) -> TensorRecord:
    if name not in part:
        msg = f"{file}: missing tensors: {name}"
        raise CheckpointError(msg)
    return part[name]


def _merge(name: str, parts: list[TensorRecord]) -> TensorRecord:
    first = parts[0]
    if len(parts) == 1 or len(first.shape) == 1:
        return first
    for part in parts:
        if (part.dtype, part.shape) != (first.dtype, first.shape):
            msg = (
                f"{part.file}: tensor {name!r} is {part.dtype} {list(part.shape)}, but "
                f"{first.dtype} {list(first.shape)} in {first.file.name}"
            )
            raise CheckpointError(msg)
    sources: tuple[Source, ...] = tuple(part.source for part in parts)
    rows, columns = first.shape
    if name.endswith(_COLUMNS):
        shape, source = (rows, columns * len(parts)), Columns(sources, rows)
        return TensorRecord(name, first.dtype, shape, first.file, source)
    shape = (rows * len(parts), columns)
    return TensorRecord(name, first.dtype, shape, first.file, Stack(sources))


# --- configuration ---


def _config(path: Path, header: GgmlHeader, tensors: Mapping[str, TensorRecord]) -> ModelConfig:
    if header.dim % header.heads or header.rotary != header.dim // header.heads:
        msg = (
            f"{path}: {header.heads} heads and {header.rotary} rotary dimensions do not fit a "
            f"width of {header.dim}"
        )
        raise ConfigError(msg)
    keys = _rows(path, tensors, "layers.0.attention.wk.weight")
    kv_heads = keys // header.rotary
    llama2 = kv_heads < header.heads or _LLAMA2.search(path.name) is not None
    large = header.dim == 8192 and header.layers == 80
    try:
        return ModelConfig(
            dim=header.dim,
            n_layers=header.layers,
            n_heads=header.heads,
            n_kv_heads=kv_heads,
            head_dim=header.rotary,
            ffn_dim=_rows(path, tensors, "layers.0.feed_forward.w1.weight"),
            vocab_size=_rows(path, tensors, "tok_embeddings.weight"),
            norm_eps=1e-5 if llama2 or large else 1e-6,
            max_context=4096 if llama2 else 2048,
            name=path.stem,
        )
    except ConfigError as error:
        msg = f"{path}: {error}"
        raise ConfigError(msg) from None


def _rows(path: Path, tensors: Mapping[str, TensorRecord], name: str) -> int:
    if name not in tensors:
        msg = f"{path}: missing tensors: {name}"
        raise CheckpointError(msg)
    return tensors[name].shape[0]
