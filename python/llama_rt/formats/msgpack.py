"""A reader of MessagePack that finds byte strings in a mapped file without copying them.

Format: msgpack.org `spec.md`. Everything is checked against the file's size before it is used, and
nesting is bounded.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from llama_rt.errors import CheckpointError
from llama_rt.formats.mapping import MappedFile

__all__ = ["Extent", "Item", "read_item"]

_MAX_DEPTH = 4  # a pair; its map of an array in pieces; the pieces' map; one of them
_MAX_ITEMS = 1 << 10
_MAX_TEXT = 1 << 16


@dataclass(frozen=True, slots=True)
class Extent:
    """A byte string or an extension: where its payload is.

    Attributes:
        offset: in the file.
        nbytes: length.
        code: type of an extension, or None for plain bytes.
    """

    offset: int
    nbytes: int
    code: int | None = None


Item = None | bool | int | float | str | Extent | list["Item"] | dict["Item", "Item"]

_NUMBERS = {
    0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b",
    0xD1: ">h", 0xD2: ">i", 0xD3: ">q",
}  # fmt: skip
# First byte -> bytes of the length that follows.
_STRINGS = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_EXTENSIONS = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_FIXED_EXTENSIONS = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_ARRAYS = {0xDC: 2, 0xDD: 4}
_MAPS = {0xDE: 2, 0xDF: 4}


def read_item(file: MappedFile, offset: int, end: int, depth: int = 0) -> tuple[Item, int]:
    """The object at `offset` and the offset after it; nothing at or beyond `end` is looked at.

    Raises:
        CheckpointError: it is cut off, or no MessagePack, or nested or large beyond reason.
    """
    if depth > _MAX_DEPTH:
        msg = f"{file.path}: MessagePack objects nested more than {_MAX_DEPTH} deep"
        raise CheckpointError(msg)
    first = _take(file, offset, 1, end)[0]
    offset += 1
    if first < 0x80 or first >= 0xE0:
        return first - 0x100 if first >= 0xE0 else first, offset
    if first in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[first], offset
    if first in _NUMBERS:
        size = struct.calcsize(_NUMBERS[first])
        return struct.unpack(_NUMBERS[first], _take(file, offset, size, end))[0], offset + size
    if 0xA0 <= first < 0xC0 or first in _STRINGS:
        length, offset = _length(file, offset, end, _STRINGS.get(first), first & 0x1F)
        return _text(file, offset, length, end), offset + length
    if first in _BYTES:
        length, offset = _length(file, offset, end, _BYTES[first], 0)
        return _extent(file, offset, length, end, None), offset + length
    if first in _EXTENSIONS or first in _FIXED_EXTENSIONS:
        fixed = _FIXED_EXTENSIONS.get(first, 0)
        length, offset = _length(file, offset, end, _EXTENSIONS.get(first), fixed)
        code = struct.unpack(">b", _take(file, offset, 1, end))[0]
        return _extent(file, offset + 1, length, end, code), offset + 1 + length
    if 0x90 <= first < 0xA0 or first in _ARRAYS:
        count, offset = _length(file, offset, end, _ARRAYS.get(first), first & 0x0F)
        return _array(file, offset, count, end, depth)
    if 0x80 <= first < 0x90 or first in _MAPS:
        count, offset = _length(file, offset, end, _MAPS.get(first), first & 0x0F)
        return _map(file, offset, count, end, depth)
    msg = f"{file.path}: no MessagePack object at offset {offset - 1}: byte {first:#04x}"
    raise CheckpointError(msg)


def _take(file: MappedFile, offset: int, length: int, end: int) -> bytes:
    if offset + length > end:
        msg = f"{file.path}: a MessagePack object ends beyond its container at offset {end}"
        raise CheckpointError(msg)
    return file.copy(offset, length, "a MessagePack object")


def _length(
    file: MappedFile, offset: int, end: int, size: int | None, short: int
) -> tuple[int, int]:
    """A length from its own bytes, or the one that the first byte held."""
    if size is None:
        return short, offset
    return int.from_bytes(_take(file, offset, size, end), "big"), offset + size


def _extent(file: MappedFile, offset: int, length: int, end: int, code: int | None) -> Extent:
    if offset + length > end:
        _take(file, offset, length, end)
    return Extent(offset, length, code)


def _text(file: MappedFile, offset: int, length: int, end: int) -> str | Extent:
    """Text; writers of old put bytes into the same type, so what is long stays where it is."""
    if length > _MAX_TEXT:
        return _extent(file, offset, length, end, None)
    try:
        return _take(file, offset, length, end).decode()
    except UnicodeDecodeError:
        return Extent(offset, length)


def _array(
    file: MappedFile, offset: int, count: int, end: int, depth: int
) -> tuple[list[Item], int]:
    _check_count(file, offset, count, end)
    items: list[Item] = []
    for _ in range(count):
        item, offset = read_item(file, offset, end, depth + 1)
        items.append(item)
    return items, offset


def _map(
    file: MappedFile, offset: int, count: int, end: int, depth: int
) -> tuple[dict[Item, Item], int]:
    _check_count(file, offset, 2 * count, end)
    items: dict[Item, Item] = {}
    for _ in range(count):
        key, offset = read_item(file, offset, end, depth + 1)
        if not isinstance(key, (str, int)):
            msg = f"{file.path}: a MessagePack map with a key that is neither text nor number"
            raise CheckpointError(msg)
        items[key], offset = read_item(file, offset, end, depth + 1)
    return items, offset


def _check_count(file: MappedFile, offset: int, count: int, end: int) -> None:
    """Every item takes a byte at least."""
    if count > min(end - offset, _MAX_ITEMS):
        msg = f"{file.path}: a MessagePack container of {count} items in {end - offset} bytes"
        raise CheckpointError(msg)
