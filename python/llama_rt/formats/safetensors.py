"""safetensors files: u64 header length, JSON header, raw little-endian data.

Format: huggingface/safetensors `README.md`; offsets in the header count from its end.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from llama_rt.errors import CheckpointError
from llama_rt.formats.mapping import MappedFile
from llama_rt.formats.records import MAX_ITEMS, Slice, TensorRecord, check_count, make_record

__all__ = ["SAFETENSORS_NAMES", "SafetensorsFile", "read_safetensors"]

SAFETENSORS_NAMES = {
    "F64": "f64", "F32": "f32", "F16": "f16", "BF16": "bf16", "I64": "i64", "I32": "i32",
    "I16": "i16", "I8": "i8", "U64": "u64", "U32": "u32", "U16": "u16", "U8": "u8",
    "BOOL": "bool", "F8_E4M3": "f8_e4m3", "F8_E5M2": "f8_e5m2",
}  # fmt: skip

_MAX_HEADER = 32 << 20  # the library takes 100 MB; an entry has some 100 bytes


@dataclass(frozen=True, slots=True)
class SafetensorsFile:
    """Tensors under the file's own names, and its free-form metadata."""

    path: Path
    tensors: dict[str, TensorRecord]
    metadata: dict[str, str]


def read_safetensors(path: Path) -> SafetensorsFile:
    """Opens one file; reads its header only.

    Raises:
        CheckpointError: the header is damaged, or its offsets do not tile the data exactly.
    """
    file = MappedFile(path)
    length = int.from_bytes(file.copy(0, 8, "the header length"), "little")
    header = _parse_header(file, length)
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict):
        msg = f"{path}: __metadata__ is not an object"
        raise CheckpointError(msg)
    check_count(path, len(header))
    tensors = {name: _record(file, name, entry, 8 + length) for name, entry in header.items()}
    _check_tiling(file, tensors, 8 + length)
    return SafetensorsFile(path, tensors, {str(k): str(v) for k, v in metadata.items()})


def _parse_header(file: MappedFile, length: int) -> dict[str, object]:
    file.check(8, length, "the header")
    if length > _MAX_HEADER:
        msg = f"{file.path}: a header of {length} bytes; at most {_MAX_HEADER} are read"
        raise CheckpointError(msg)
    raw = file.copy(8, length, "the header")
    # Before it is parsed: every value follows one of these; the entry of a matrix has eight.
    if sum(map(raw.count, (b",", b"[", b"{"))) > 10 * MAX_ITEMS:
        msg = f"{file.path}: a header of more values than {MAX_ITEMS} tensors have"
        raise CheckpointError(msg)

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        items = dict(pairs)
        if len(items) != len(pairs):
            msg = "a name occurs twice"
            raise ValueError(msg)
        return items

    try:
        header = json.loads(raw.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        msg = f"{file.path}: the header of {length} bytes is not valid JSON: {str(error)[:120]}"
        raise CheckpointError(msg) from None
    if not isinstance(header, dict):
        msg = f"{file.path}: the header is not a JSON object"
        raise CheckpointError(msg)
    return header


def _record(file: MappedFile, name: str, entry: object, data: int) -> TensorRecord:
    if not isinstance(entry, dict):
        _refuse(file, name, "its header entry is not an object")
    code = entry.get("dtype")
    dtype = SAFETENSORS_NAMES.get(code) if isinstance(code, str) else None
    if dtype is None:
        shown = repr(code[:40]) if isinstance(code, str) else f"(a {type(code).__name__})"
        _refuse(file, name, f"unknown type {shown}; known: {', '.join(SAFETENSORS_NAMES)}")
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if not isinstance(shape, list) or not all(_is_size(size) for size in shape):
        _refuse(file, name, "its shape is not a list of sizes")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        _refuse(file, name, "data_offsets is not a pair of sizes")
    begin, end = offsets
    if end < begin:
        _refuse(file, name, f"its data would end at {end}, before it begins at {begin}")
    source = Slice(file, data + begin, end - begin, f"tensor {name[:200]!r}")
    return make_record(name, dtype, tuple(shape), file.path, source)


def _refuse(file: MappedFile, name: str, problem: str) -> NoReturn:
    msg = f"{file.path}: tensor {name[:200]!r}: {problem}"
    raise CheckpointError(msg)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _check_tiling(file: MappedFile, tensors: dict[str, TensorRecord], data: int) -> None:
    """The format allows neither holes nor overlaps: either means that an offset is wrong."""
    position = data
    spans = [(t.source.offset, t.nbytes, t.name) for t in tensors.values()
             if isinstance(t.source, Slice)]  # fmt: skip
    for offset, nbytes, name in sorted(spans):
        if offset != position:
            msg = (
                f"{file.path}: tensor {name[:200]!r} begins at data offset {offset - data}, "
                f"where {position - data} was expected"
            )
            raise CheckpointError(msg)
        position += nbytes
    if position != file.size:
        msg = f"{file.path}: tensors end at byte {position}, but the file has {file.size}"
        raise CheckpointError(msg)
