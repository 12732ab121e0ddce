"""The zip container that torch writes: stored entries found through the central directory.

Layout: PKWARE APPNOTE 4.3; torch leaves sizes out of local headers, writes zip64 records even for
small files, and pads local headers so that entry data can be mapped in place.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NoReturn

from llama_rt.errors import CheckpointError
from llama_rt.formats.mapping import MappedFile
from llama_rt.formats.records import check_count

__all__ = ["Entry", "read_entries"]

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_LONGEST_COMMENT = 65535
_MAX_DIRECTORY = 64 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored file: where its bytes are."""

    name: str
    offset: int
    size: int


def read_entries(file: MappedFile) -> dict[str, Entry]:
    """All entries of a zip archive by name.

    Raises:
        CheckpointError: truncated, compressed, encrypted, or offsets outside of the file.
    """
    count, size, start = _directory(file)
    file.check(start, size, "the zip directory")
    if count * _CENTRAL.size > size:
        msg = f"{file.path}: a zip directory of {size} bytes cannot hold {count} entries"
        raise CheckpointError(msg)
    check_count(file.path, count, "zip entries")
    if size > _MAX_DIRECTORY:
        msg = f"{file.path}: a zip directory of {size} bytes; at most {_MAX_DIRECTORY} are read"
        raise CheckpointError(msg)
    directory = file.copy(start, size, "the zip directory")
    entries: dict[str, Entry] = {}
    position = 0
    for _ in range(count):
        entry, position = _entry(file, directory, position)
        if entry.name in entries:
            msg = f"{file.path}: the zip entry {entry.name[:200]!r} occurs twice"
            raise CheckpointError(msg)
        entries[entry.name] = entry
    return entries


def _directory(file: MappedFile) -> tuple[int, int, int]:
    """Entry count, bytes and offset of the central directory."""
    end = file.find_last(b"PK\x05\x06", file.size - _END.size - _LONGEST_COMMENT)
    if end < 0:
        msg = f"{file.path}: the zip directory at the end is missing; the file is truncated"
        raise CheckpointError(msg)
    record = _END.unpack(file.copy(end, _END.size, "the zip end record"))
    count, size, start = record[4], record[5], record[6]
    if 0xFFFF in (count, record[3]) or 0xFFFFFFFF in (size, start):
        raw = file.copy(end - _LOCATOR.size, _LOCATOR.size, "the zip64 locator")
        signature, _, end64, _ = _LOCATOR.unpack(raw)
        if signature != b"PK\x06\x07":
            msg = f"{file.path}: the zip64 locator is missing"
            raise CheckpointError(msg)
        record = _END64.unpack(file.copy(end64, _END64.size, "the zip64 end record"))
        if record[0] != b"PK\x06\x06":
            msg = f"{file.path}: the zip64 end record is damaged"
            raise CheckpointError(msg)
        count, size, start = record[7], record[8], record[9]
    return count, size, start


def _entry(file: MappedFile, directory: bytes, position: int) -> tuple[Entry, int]:

    if position + _CENTRAL.size > len(directory):
        _refuse(file, "it ends inside an entry")
    record = _CENTRAL.unpack_from(directory, position)
    if record[0] != b"PK\x01\x02":
        _refuse(file, "an entry is damaged")
    flags, method = record[3], record[4]
    packed, size = record[8], record[9]
    name_length, extra_length, comment_length = record[10], record[11], record[12]
    offset = record[16]
    name_end = position + _CENTRAL.size + name_length
    end = name_end + extra_length + comment_length
    if end > len(directory):
        _refuse(file, "it ends inside an entry")
    name = directory[position + _CENTRAL.size : name_end].decode("utf-8", "replace")
    extra = directory[name_end : name_end + extra_length]
    if 0xFFFFFFFF in (packed, size, offset):
        size, packed, offset = _zip64_sizes(file, extra, size, packed, offset)
    if flags & 1:
        _refuse(file, f"entry {name[:200]!r} is encrypted")
    if method != 0 or packed != size:
        _refuse(file, f"entry {name[:200]!r} is compressed; torch stores entries as they are")
    what = f"the zip entry {name[:200]!r}"
    local = _LOCAL.unpack(file.copy(offset, _LOCAL.size, what))
    if local[0] != b"PK\x03\x04":
        _refuse(file, f"entry {name[:200]!r} points to offset {offset}, where none begins")
    data = offset + _LOCAL.size + local[9] + local[10]
    file.check(data, size, what)
    return Entry(name, data, size), end


def _zip64_sizes(
    file: MappedFile, extra: bytes, size: int, packed: int, offset: int
) -> tuple[int, int, int]:
    """Replaces the fields that are all ones by those of the zip64 extra record, in order."""
    body = b""
    position = 0
    while position + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, position)
        position += 4 + length
        if tag == 1:
            body = extra[position - length : position]
    fields = [size, packed, offset]
    for index, field in enumerate(fields):
        if field == 0xFFFFFFFF:
            if len(body) < 8:
                _refuse(file, "a zip64 record is missing or too short")
            fields[index] = int.from_bytes(body[:8], "little")
            body = body[8:]
    return fields[0], fields[1], fields[2]


def _refuse(file: MappedFile, problem: str) -> NoReturn:
    msg = f"{file.path}: zip directory: {problem}"
    raise CheckpointError(msg)
