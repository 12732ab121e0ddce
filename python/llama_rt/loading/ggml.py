"""Files from before GGUF: GGML, GGMF and GGJT v1 to v3 (March to August 2023).

Formats: llama.cpp `convert-pth-to-ggml.py`, `migrate-ggml-2023-03-30-pr613.py` and llama.cpp of
those months; nomic-ai/gpt4all.cpp `chat.cpp`. Names and rotary order are Meta's.

What the files do not say: epsilon (the models' own values are taken: 1e-6, but 1e-5 for 65B and
for Llama 2), context (2048; Llama 2: 4096), and which of the two a file of 7B or 13B is: a name
with `llama2` or `llama-2` in it, or fewer key/value heads than heads, makes it Llama 2.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from llama_rt.config import ModelConfig
from llama_rt.errors import CheckpointError, ConfigError
from llama_rt.files import kind_of
from llama_rt.loading.assemble import rename, verify
from llama_rt.loading.checkpoint import (
    Checkpoint,
    Columns,
    Slice,
    Source,
    Stack,
    TensorRecord,
    check_count,
    make_record,
)
from llama_rt.loading.dtypes import stored_bytes
from llama_rt.loading.ggml_blocks import Layout, OldBlocks, layout_of, looks_like_rows
from llama_rt.loading.ggml_vocabulary import tokenizer_keys
from llama_rt.loading.mapping import MappedFile
from llama_rt.loading.names import from_meta_name

__all__ = ["MAGICS", "open_ggml"]

MAGICS = {b"lmgg": "ggml", b"fmgg": "ggmf", b"tjgg": "ggjt"}
_VERSIONS = {"ggmf": (1,), "ggjt": (1, 2, 3)}
_DTYPES = {
    0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0", 10: "q2_k",
    11: "q3_k", 12: "q4_k", 13: "q5_k", 14: "q6_k",
}  # fmt: skip
_REMOVED = {4: "Q4_2", 5: "Q4_3"}
_FIRST_K = 10
_MOST_NAME = 256
_MOST_PIECE = 1 << 12
_COLUMNS = ("tok_embeddings.weight", ".wo.weight", ".w2.weight")  # Meta's model-parallel slices
_LLAMA2 = re.compile(r"llama-?2", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Header:
    generation: str  # "ggml", "ggmf", "ggjt1", ...
    vocab: int
    dim: int
    n_mult: int
    heads: int
    layers: int
    rotary: int
    pieces: tuple[bytes, ...]
    scores: tuple[float, ...] | None
    end: int


def open_ggml(path: Path) -> Checkpoint:
    """Opens a file, and its other parts `name.1`, `name.2`, ... if it holds slices.

    Raises:
        CheckpointError: damaged, a part is missing, or a type that no longer exists.
        ConfigError: the header does not describe a model.
    """
    first = _read_part(path)
    header, tensors = first
    parts = [tensors]
    files = [path]
    for number in range(1, _part_count(path, header, tensors)):
        other = path.with_name(f"{path.name}.{number}")
        if kind_of(other) == "nothing":
            msg = f"{path}: holds slices of every matrix; part {other.name} is missing"
            raise CheckpointError(msg)
        its_header, its_tensors = _read_part(other)
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
        "general.file_format": _spoken(header),
        "llama.context_length": config.max_context,
        **tokenizer_keys(header.pieces, header.scores, config.vocab_size),
    }
    verified = verify(named, config, path, lambda name: name)
    return Checkpoint(path, "gguf", config, verified, metadata)


def _spoken(header: _Header) -> str:
    names = {"ggml": "GGML", "ggmf": "GGMF v1"}
    return names.get(header.generation, f"GGJT v{header.generation[-1]}")


# --- one file ---


def _read_part(path: Path) -> tuple[_Header, dict[str, TensorRecord]]:
    file = MappedFile(path)
    header = _read_header(file)
    return header, _read_tensors(file, header)


def _read_header(file: MappedFile) -> _Header:
    magic = MAGICS.get(file.copy(0, 4, "the magic number"))
    if magic is None:
        msg = f"{file.path}: not a GGML, GGMF or GGJT file"
        raise CheckpointError(msg)
    offset = 4
    generation = magic
    if magic in _VERSIONS:
        version = _integers(file, offset, 1, "the version")[0]
        offset += 4
        if version not in _VERSIONS[magic]:
            msg = f"{file.path}: {magic.upper()} version {version}; known: {_VERSIONS[magic]}"
            raise CheckpointError(msg)
        generation = f"{magic}{version}" if magic == "ggjt" else magic
    sizes = _integers(file, offset, 7, "the header")
    offset += 28
    vocab, dim, n_mult, heads, layers, rotary, _ = sizes
    if not (0 < vocab < 1 << 20 and dim > 0 and heads > 0 and layers > 0):
        msg = f"{file.path}: a header that describes no model: {list(sizes)}"
        raise CheckpointError(msg)
    pieces: list[bytes] = []
    scores: list[float] = []
    for index in range(vocab):
        if index == vocab - 1 and _is_tensor(file, offset):
            break  # GPT4All: the pad token has a row but no piece
        length = struct.unpack("<I", file.copy(offset, 4, "the vocabulary"))[0]
        if length > _MOST_PIECE:
            msg = f"{file.path}: token {index} has {length} bytes; the file is damaged"
            raise CheckpointError(msg)
        pieces.append(file.copy(offset + 4, length, "the vocabulary"))
        offset += 4 + length
        if magic != "ggml":
            scores.append(struct.unpack("<f", file.copy(offset, 4, "the vocabulary"))[0])
            offset += 4
    return _Header(
        generation, vocab, dim, n_mult, heads, layers, rotary, tuple(pieces),
        tuple(scores) if magic != "ggml" else None, offset,
    )  # fmt: skip


def _integers(file: MappedFile, offset: int, count: int, what: str) -> tuple[int, ...]:
    return struct.unpack(f"<{count}i", file.copy(offset, 4 * count, what))


def _is_tensor(file: MappedFile, offset: int) -> bool:
    """Whether a tensor begins here: its name is one that a model has."""
    try:
        axes, length, _ = _integers(file, offset, 3, "a tensor")
        if axes not in (1, 2) or not 0 < length <= _MOST_NAME:
            return False
        name = file.copy(offset + 12 + 4 * axes, length, "a tensor")
    except CheckpointError:
        return False
    return from_meta_name(name.decode("latin-1")) is not None


def _read_tensors(file: MappedFile, header: _Header) -> dict[str, TensorRecord]:
    tensors: dict[str, TensorRecord] = {}
    offset = header.end
    by_row: dict[str, bool] = {}
    while offset < file.size:
        check_count(file.path, len(tensors) + 1)
        axes, length, code = _integers(file, offset, 3, "a tensor")
        if axes not in (1, 2) or not 0 < length <= _MOST_NAME:
            msg = f"{file.path}: no tensor at {offset}: {axes} axes, a name of {length} bytes"
            raise CheckpointError(msg)
        shape = _integers(file, offset + 12, axes, "a tensor")[::-1]
        name = file.copy(offset + 12 + 4 * axes, length, "a tensor").decode("utf-8", "replace")
        offset += 12 + 4 * axes + length
        if header.generation.startswith("ggjt"):
            offset = -(-offset // 32) * 32
        if name in tensors:
            msg = f"{file.path}: tensor {name!r} is there twice"
            raise CheckpointError(msg)
        dtype = _dtype(file.path, name, code, header)
        record, size = _record(file, name, dtype, shape, offset, header, by_row)
        tensors[name] = record
        offset += size
    return tensors


def _dtype(path: Path, name: str, code: int, header: _Header) -> str:
    dtype = _DTYPES.get(code)
    late = header.generation == "ggjt3"
    if dtype is None or (code >= _FIRST_K and not late):
        what = _REMOVED.get(code, f"number {code}")
        msg = f"{path}: tensor {name!r} is of type {what}, which {_spoken(header)} files read here "
        raise CheckpointError(msg + "do not have")
    return dtype


def _record(
    file: MappedFile,
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    offset: int,
    header: _Header,
    by_row: dict[str, bool],
) -> tuple[TensorRecord, int]:
    """A tensor and its bytes in the file."""
    if any(size < 1 for size in shape):
        msg = f"{file.path}: tensor {name!r} has a size below 1 in {list(shape)}"
        raise CheckpointError(msg)
    today = stored_bytes(dtype, shape, what=name, file=file.path)
    layout = layout_of(dtype, header.generation)  # type: ignore[arg-type]
    if layout is None:
        return make_record(
            name, dtype, shape, file.path, Slice(file, offset, today, f"tensor {name!r}")
        ), today
    size = today // layout.new_bytes * layout.old_bytes
    source = Slice(file, offset, size, f"tensor {name!r}")
    rows = shape[0] if len(shape) == 2 else 1
    if header.generation in ("ggml", "ggmf") and layout.scales and dtype in ("q4_0", "q4_1"):
        layout = _with_order(layout, source, rows, by_row)
    blocks = OldBlocks(source, rows, layout, file.path, name)
    return make_record(name, dtype, shape, file.path, blocks), size


def _with_order(layout: Layout, source: Slice, rows: int, by_row: dict[str, bool]) -> Layout:
    """The layout, by row or by block as the file's first matrix of the type shows."""
    if layout.dtype not in by_row:
        seen = looks_like_rows(source.read, rows, layout)
        by_row[layout.dtype] = layout.rows if seen is None else seen
    found = by_row[layout.dtype]
    return replace(layout, rows=found, minimum_first=found and layout.scales == 2)


# --- parts ---


def _part_count(path: Path, header: _Header, tensors: Mapping[str, TensorRecord]) -> int:
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


def _config(path: Path, header: _Header, tensors: Mapping[str, TensorRecord]) -> ModelConfig:
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
