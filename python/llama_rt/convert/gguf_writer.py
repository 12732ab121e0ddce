"""Writing GGUF v3: header, keys, tensor table, then data streamed tensor by tensor.

Format: ggml `include/gguf.h`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO

from llama_rt.convert.output import new_file
from llama_rt.convert.rewrite import OutTensor, streamed
from llama_rt.errors import CheckpointError
from llama_rt.formats.dtypes import STORED

__all__ = ["Value", "array", "flag", "floating", "string", "unsigned", "write_gguf_file"]

_U32, _F32, _BOOL, _STRING, _ARRAY = 4, 6, 7, 8, 9
_FORMS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q",
    12: "<d",
}  # fmt: skip
_MAX_NAME = 63
_MAX_AXES = 4


@dataclass(frozen=True, slots=True)
class Value:
    """A metadata value: GGUF's type number (of the elements, if `data` is a list) and the value."""

    kind: int
    data: object


def unsigned(value: int) -> Value:
    """A value of GGUF's 32-bit unsigned type."""
    return Value(_U32, value)


def floating(value: float) -> Value:
    """A value of GGUF's 32-bit float type."""
    return Value(_F32, value)


def flag(value: bool) -> Value:
    """A value of GGUF's bool type."""
    return Value(_BOOL, value)


def string(value: str) -> Value:
    """A value of GGUF's string type."""
    return Value(_STRING, value)


def array(kind: int, values: Sequence[object]) -> Value:
    """An array of elements of one type number."""
    return Value(kind, list(values))


def write_gguf_file(
    path: Path,
    metadata: Mapping[str, Value],
    tensors: Sequence[OutTensor],
    *,
    overwrite: bool = False,
    advance: Callable[[int], object] = lambda _: None,
    check: Callable[[Path], None] | None = None,
) -> None:
    """Writes a file; it appears complete or not at all.

    Args:
        path: the new file.
        metadata: keys in order; `general.alignment`, if given, is followed.
        tensors: in order.
        overwrite: replace what is at `path`.
        advance: told the number of data bytes after each piece.
        check: raises if the complete file, still under a temporary name, is not what it should be.

    Raises:
        CheckpointError: the file exists, cannot be written, or a name or value does not fit.
    """
    alignment = _alignment(path, metadata)
    head = _header(path, metadata, tensors, alignment)
    with new_file(path, overwrite=overwrite, check=check) as file:
        file.write(head)
        _pad(file, len(head), alignment)
        for tensor, chunks in groupby(streamed(tensors), key=itemgetter(0)):
            written = 0
            for _, chunk in chunks:
                file.write(chunk.data)
                written += chunk.nbytes
                advance(chunk.nbytes)
            if written != tensor.nbytes:
                msg = f"{path}: tensor {tensor.name!r} came as {written} of {tensor.nbytes} bytes"
                raise CheckpointError(msg)
            _pad(file, written, alignment)


def _alignment(path: Path, metadata: Mapping[str, Value]) -> int:
    value = metadata.get("general.alignment")
    alignment = 32 if value is None else value.data
    if not isinstance(alignment, int) or alignment < 8 or alignment & (alignment - 1):
        msg = f"{path}: general.alignment must be a power of two of at least 8, not {alignment!r}"
        raise CheckpointError(msg)
    return alignment


def _pad(file: BinaryIO, length: int, alignment: int) -> None:
    file.write(bytes(-length % alignment))


def _header(
    path: Path, metadata: Mapping[str, Value], tensors: Sequence[OutTensor], alignment: int
) -> bytes:
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    for key, value in metadata.items():
        if not key:
            msg = f"{path}: a key is empty"
            raise CheckpointError(msg)
        try:
            parts += [_string(key), _value(value)]
        except (struct.error, TypeError, AttributeError, KeyError, UnicodeEncodeError):
            msg = f"{path}: key {key!r}: the value does not fit its type {value.kind}"
            raise CheckpointError(msg) from None
    offset = 0
    seen: set[str] = set()
    for tensor in tensors:
        name = tensor.name.encode()
        if tensor.name in seen or not 0 < len(name) <= _MAX_NAME or len(tensor.shape) > _MAX_AXES:
            msg = f"{path}: tensor {tensor.name!r} has a name or shape that GGUF cannot hold"
            raise CheckpointError(msg)
        seen.add(tensor.name)
        parts.append(_string(tensor.name))
        dims = tuple(reversed(tensor.shape))
        kind = STORED[tensor.dtype].gguf_id
        if kind < 0:
            msg = f"{path}: tensor {tensor.name!r}: GGUF has no type {tensor.dtype}"
            raise CheckpointError(msg)
        parts.append(struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset))
        offset += -(-tensor.nbytes // alignment) * alignment
    return b"".join(parts)


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Value) -> bytes:
    if not isinstance(value.data, list):
        return struct.pack("<I", value.kind) + _scalar(value.kind, value.data)
    head = struct.pack("<IIQ", _ARRAY, value.kind, len(value.data))
    if value.kind == _STRING:
        return head + b"".join(map(_string, value.data))
    form = _FORMS[value.kind]
    return head + struct.pack(f"<{len(value.data)}{form[1]}", *value.data)


def _scalar(kind: int, data: object) -> bytes:
    if kind == _STRING:
        if not isinstance(data, str):
            raise TypeError
        return _string(data)
    return struct.pack(_FORMS[kind], data)
