"""GGUF v2 and v3: header, keys, tensor table; single files and splits.

Format: ggml `include/gguf.h`, `src/gguf.cpp`. Everything is little-endian; dims come fastest first
and are reversed here, so that a matrix is `[out, in]` as everywhere else.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from llama_rt.errors import CheckpointError
from llama_rt.files import kind_of
from llama_rt.formats.dtypes import GGUF_NAMES, STORED, stored_bytes
from llama_rt.formats.mapping import MappedFile
from llama_rt.formats.records import Slice, TensorRecord, check_count, make_record

__all__ = ["GgufFile", "read_gguf"]

_SCALARS = {
    0: ("u8", struct.Struct("<B")), 1: ("i8", struct.Struct("<b")),
    2: ("u16", struct.Struct("<H")), 3: ("i16", struct.Struct("<h")),
    4: ("u32", struct.Struct("<I")), 5: ("i32", struct.Struct("<i")),
    6: ("f32", struct.Struct("<f")), 7: ("bool", struct.Struct("<?")),
    10: ("u64", struct.Struct("<Q")), 11: ("i64", struct.Struct("<q")),
    12: ("f64", struct.Struct("<d")),
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_ARRAY_DTYPES = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "<u1",
                 10: "<u8", 11: "<i8", 12: "<f8"}  # fmt: skip
_SPLIT_NAME = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")
_MAX_SPLITS = 4096
_MAX_ARRAYS = 1 << 22  # items of all of them; a list takes far more than the file
_MAX_HEADER = 64 << 20  # keys and tensor table; vocabularies take some 10 MiB


@dataclass(frozen=True, slots=True)
class GgufFile:
    """Keys and tensors of a file, or of all parts of a split one.

    Attributes:
        path: the (first) file.
        version: 2 or 3.
        metadata: values as int, float, bool, str or list of them.
        tensors: under the file's own names.
        files: all parts.
        kinds: value type numbers of the keys (of the elements, for arrays), for copying them.
    """

    path: Path
    version: int
    metadata: dict[str, object]
    tensors: dict[str, TensorRecord]
    files: tuple[Path, ...]
    kinds: dict[str, int]


def read_gguf(path: Path) -> GgufFile:
    """Opens a file, with the other parts if its keys say that it was split.

    Raises:
        CheckpointError: damaged, truncated, inconsistent, or of a version or type not supported.
    """
    first = _Reader(MappedFile(path)).read()
    parts = first.metadata.get("split.count", 1)
    if not isinstance(parts, int) or isinstance(parts, bool) or not 0 <= parts <= _MAX_SPLITS:
        msg = f"{path}: split.count is {str(parts)[:40]}"
        raise CheckpointError(msg)
    return _join_parts(first, parts) if parts > 1 else first


def _join_parts(opened: GgufFile, count: int) -> GgufFile:
    path = opened.path
    match = _SPLIT_NAME.match(path.name)
    if match is None or int(match["count"]) != count:
        msg = (
            f"{path}: it is one of {count} parts, but is not named like them "
            f"(NAME-00001-of-{count:05d}.gguf)"
        )
        raise CheckpointError(msg)
    number = opened.metadata.get("split.no")
    if number != int(match["number"]) - 1:
        msg = f"{path}: split.no is {str(number)[:40]}, its name says part {match['number']}"
        raise CheckpointError(msg)
    names = [f"{match['stem']}-{index + 1:05d}-of-{count:05d}.gguf" for index in range(count)]
    files = tuple(path.with_name(name) for name in names)
    for file in files:
        if kind_of(file) == "nothing":
            msg = f"{path}: part {file.name!r} is missing next to it"
            raise CheckpointError(msg)
    parts = [_Reader(MappedFile(file)).read() for file in files]
    tensors: dict[str, TensorRecord] = {}
    for index, part in enumerate(parts):
        found = (part.metadata.get("split.no"), part.metadata.get("split.count"))
        if found != (index, count):
            msg = f"{part.path}: split.no and split.count are {found}; expected {(index, count)}"
            raise CheckpointError(msg)
        for name, record in part.tensors.items():
            if name in tensors:
                msg = f"{part.path}: tensor {name!r} is in {tensors[name].file.name!r} as well"
                raise CheckpointError(msg)
            tensors[name] = record
    total = parts[0].metadata.get("split.tensors.count", len(tensors))
    if total != len(tensors):
        msg = f"{files[0]}: its {count} parts hold {len(tensors)} tensors, not {total}"
        raise CheckpointError(msg)
    head = parts[0]
    return GgufFile(files[0], head.version, head.metadata, tensors, files, head.kinds)


class _Reader:
    """Walks one file's header; `position` never passes the end of the file."""

    def __init__(self, file: MappedFile) -> None:
        self.file, self.position, self.items = file, 0, 0

    def refuse(self, problem: str) -> NoReturn:
        msg = f"{self.file.path}: {problem}"
        raise CheckpointError(msg)

    def take(self, count: int, what: str) -> bytes:
        piece = self.file.copy(self.position, count, what)
        self.position += count
        return piece

    def scalar(self, kind: int, what: str) -> int | float | bool:
        form = _SCALARS[kind][1]
        value: int | float | bool = form.unpack(self.take(form.size, what))[0]
        return value

    def count(self, what: str, item_bytes: int) -> int:
        """A 64-bit count of items, each of which needs at least `item_bytes`."""
        value = int.from_bytes(self.take(8, what), "little")
        left = min(self.file.size, _MAX_HEADER) - self.position
        if value * item_bytes > left:
            self.refuse(f"{what} is {value}, which the remaining {left} bytes cannot hold")
        return value

    def length(self, what: str, item_bytes: int) -> int:
        """The length of an array, within what all arrays together may hold."""
        count = self.count(f"the length of {what}", item_bytes)
        self.items += count
        if self.items > _MAX_ARRAYS:
            self.refuse(f"more than {_MAX_ARRAYS} items in arrays, with the {count} of {what}")
        return count

    def string(self, what: str) -> str:
        raw = self.take(self.count(f"the length of {what}", 1), what)
        return raw.decode("utf-8", "replace")

    def read(self) -> GgufFile:
        if self.take(4, "the magic number") != b"GGUF":
            self.refuse("not a GGUF file")
        version = int.from_bytes(self.take(4, "the version"), "little")
        if version & 0xFFFF == 0:
            self.refuse("a big-endian GGUF file, which is not supported")
        if version not in (2, 3):
            self.refuse(f"GGUF version {version}; supported: 2 and 3")
        n_tensors = self.count("the number of tensors", 24)
        n_keys = self.count("the number of keys", 13)
        check_count(self.file.path, n_tensors)
        check_count(self.file.path, n_keys, "keys")
        metadata: dict[str, object] = {}
        kinds: dict[str, int] = {}
        for _ in range(n_keys):
            self._read_key(metadata, kinds)
        alignment = metadata.get("general.alignment", 32)
        if (
            not isinstance(alignment, int)
            or not 1 <= alignment <= 1 << 20
            or alignment & (alignment - 1)
        ):
            self.refuse(f"general.alignment is {str(alignment)[:40]}, not a power of two")
        table = [self._read_tensor() for _ in range(n_tensors)]
        tensors = self._place(table, alignment)
        path = self.file.path
        return GgufFile(path, version, metadata, tensors, (path,), kinds)

    def _read_key(self, metadata: dict[str, object], kinds: dict[str, int]) -> None:
        key = self.string("a key")
        if not key or key in metadata:
            self.refuse(f"key {key[:200]!r} is empty or occurs twice")
        what = f"key {key[:200]!r}"
        kind = int(self.scalar(4, what))
        if kind == _STRING:
            value: object = self.string(what)
        elif kind == _ARRAY:
            kind, value = self._array(what)
        elif kind in _SCALARS:
            value = self.scalar(kind, what)
        else:
            self.refuse(f"{what} has the unknown value type {kind}")
        metadata[key], kinds[key] = value, kind

    def _array(self, what: str) -> tuple[int, list[object]]:
        kind = int(self.scalar(4, what))
        if kind == _STRING:
            count = self.length(what, 8)
            texts, self.position = self.file.strings(self.position, count, what)
            return kind, list[object](texts)
        if kind not in _ARRAY_DTYPES:
            self.refuse(f"{what} is an array of the unknown or nested type {kind}")
        dtype = np.dtype(_ARRAY_DTYPES[kind])
        count = self.length(what, dtype.itemsize)
        items = np.frombuffer(self.take(count * dtype.itemsize, what), dtype)
        return kind, (items.astype(bool) if kind == 7 else items).tolist()

    def _read_tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self.string("a tensor name")
        if not 0 < len(name.encode()) < 64:
            self.refuse(f"tensor name {name[:80]!r} is empty or 64 bytes and longer")
        what = f"tensor {name!r}"
        axes = int(self.scalar(4, what))
        if axes > 4:
            self.refuse(f"{what} has {axes} axes; at most 4 are possible")
        dims = [int(self.scalar(11, what)) for _ in range(axes)]
        if any(size < 0 for size in dims):
            self.refuse(f"{what} has a negative size in {dims}")
        kind, offset = int(self.scalar(4, what)), int(self.scalar(10, what))
        return name, tuple(reversed(dims)), kind, offset

    def _place(
        self, table: list[tuple[str, tuple[int, ...], int, int]], alignment: int
    ) -> dict[str, TensorRecord]:
        """Records over the data, whose offsets must be the running sum of padded sizes."""
        data = -(-self.position // alignment) * alignment
        tensors: dict[str, TensorRecord] = {}
        expected = 0
        for name, shape, kind, offset in table:
            dtype = GGUF_NAMES.get(kind, f"number {kind}")
            if dtype not in STORED:
                runs = ", ".join(
                    row.name for row in STORED.values() if row.runs and row.gguf_id >= 0
                )
                self.refuse(f"tensor {name!r} has the type {dtype}; supported: {runs}")
            if name in tensors:
                self.refuse(f"tensor {name!r} occurs twice")
            if offset != expected:
                self.refuse(f"tensor {name!r} is at data offset {offset}, expected {expected}")
            nbytes = stored_bytes(dtype, shape, what=name, file=self.file.path)
            source = Slice(self.file, data + offset, nbytes, f"tensor {name!r}")
            tensors[name] = make_record(name, dtype, shape, self.file.path, source)
            expected += -(-nbytes // alignment) * alignment
        return tensors
