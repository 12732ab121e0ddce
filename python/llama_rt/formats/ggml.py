"""Files from before GGUF: GGML, GGMF and GGJT v1 to v3 (March to August 2023).

Formats: llama.cpp `convert-pth-to-ggml.py`, `migrate-ggml-2023-03-30-pr613.py` and llama.cpp of
those months; nomic-ai/gpt4all.cpp `chat.cpp`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from llama_rt.errors import CheckpointError
from llama_rt.formats.dtypes import stored_bytes
from llama_rt.formats.ggml_blocks import Layout, OldBlocks, layout_of, looks_like_rows
from llama_rt.formats.mapping import MappedFile
from llama_rt.formats.records import (
    Slice,
    TensorRecord,
    check_count,
    make_record,
)

__all__ = ["MAGICS", "GgmlHeader", "format_name", "read_ggml"]

MAGICS = {b"lmgg": "ggml", b"fmgg": "ggmf", b"tjgg": "ggjt"}
_VERSIONS = {"ggmf": (1,), "ggjt": (1, 2, 3)}
_DTYPES = {
    0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0", 10: "q2_k",
    11: "q3_k", 12: "q4_k", 13: "q5_k", 14: "q6_k",
}  # fmt: skip
_REMOVED = {4: "Q4_2", 5: "Q4_3"}
_FIRST_K = 10
_MAX_NAME = 256
_MAX_PIECE = 1 << 12


@dataclass(frozen=True, slots=True)
class GgmlHeader:
    """What a file says before its tensors.

    Attributes:
        generation: `"ggml"`, `"ggmf"`, `"ggjt1"`, `"ggjt2"` or `"ggjt3"`.
        vocab: rows of the embedding.
        dim: width of the model.
        n_mult: rounding of the FFN width.
        heads: attention heads.
        layers: number of layers.
        rotary: rotary dimensions of a head.
        pieces: texts of the vocabulary by id, as stored.
        scores: by id; None in files without a version.
        end: offset of the first tensor.
    """

    generation: str
    vocab: int
    dim: int
    n_mult: int
    heads: int
    layers: int
    rotary: int
    pieces: tuple[bytes, ...]
    scores: tuple[float, ...] | None
    end: int


def format_name(header: GgmlHeader) -> str:
    """The name that people know the format by, such as `"GGJT v3"`."""
    names = {"ggml": "GGML", "ggmf": "GGMF v1"}
    return names.get(header.generation, f"GGJT v{header.generation[-1]}")


def read_ggml(
    path: Path, is_tensor_name: Callable[[str], bool]
) -> tuple[GgmlHeader, dict[str, TensorRecord]]:
    """Reads the header and the tensors of one file, under the file's own names.

    Args:
        path: the file.
        is_tensor_name: whether a model has a tensor of this name; tells where a vocabulary ends
            that has a piece less than the header says.

    Raises:
        CheckpointError: damaged, or a type that no longer exists.
    """
    file = MappedFile(path)
    header = _read_header(file, is_tensor_name)
    return header, _read_tensors(file, header)


def _read_header(file: MappedFile, is_tensor_name: Callable[[str], bool]) -> GgmlHeader:
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
        if index == vocab - 1 and _is_tensor(file, offset, is_tensor_name):
            break  # GPT4All: the pad token has a row but no piece
        length = struct.unpack("<I", file.copy(offset, 4, "the vocabulary"))[0]
        if length > _MAX_PIECE:
            msg = f"{file.path}: token {index} has {length} bytes; the file is damaged"
            raise CheckpointError(msg)
        pieces.append(file.copy(offset + 4, length, "the vocabulary"))
        offset += 4 + length
        if magic != "ggml":
            scores.append(struct.unpack("<f", file.copy(offset, 4, "the vocabulary"))[0])
            offset += 4
    return GgmlHeader(
        generation, vocab, dim, n_mult, heads, layers, rotary, tuple(pieces),
        tuple(scores) if magic != "ggml" else None, offset,
    )  # fmt: skip


def _integers(file: MappedFile, offset: int, count: int, what: str) -> tuple[int, ...]:
    return struct.unpack(f"<{count}i", file.copy(offset, 4 * count, what))


def _is_tensor(file: MappedFile, offset: int, is_tensor_name: Callable[[str], bool]) -> bool:
    """Whether a tensor begins here: its name is one that a model has."""
    try:
        axes, length, _ = _integers(file, offset, 3, "a tensor")
        if axes not in (1, 2) or not 0 < length <= _MAX_NAME:
            return False
        name = file.copy(offset + 12 + 4 * axes, length, "a tensor")
    except CheckpointError:
        return False
    return is_tensor_name(name.decode("latin-1"))


def _read_tensors(file: MappedFile, header: GgmlHeader) -> dict[str, TensorRecord]:
    tensors: dict[str, TensorRecord] = {}
    offset = header.end
    by_row: dict[str, bool] = {}
    while offset < file.size:
        check_count(file.path, len(tensors) + 1)
        axes, length, code = _integers(file, offset, 3, "a tensor")
        if axes not in (1, 2) or not 0 < length <= _MAX_NAME:
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


def _dtype(path: Path, name: str, code: int, header: GgmlHeader) -> str:
    dtype = _DTYPES.get(code)
    late = header.generation == "ggjt3"
    if dtype is None or (code >= _FIRST_K and not late):
        what = _REMOVED.get(code, f"number {code}")
        msg = (
            f"{path}: tensor {name!r} is of type {what}, which {format_name(header)} files "
            "read here do not have"
        )
        raise CheckpointError(msg)
    return dtype


def _record(
    file: MappedFile,
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    offset: int,
    header: GgmlHeader,
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
