"""Files of `torch.save`: zip archives (since torch 1.6) and the pickle streams before them.

Only tensors are read: views of storages in the file, under the names of the saved
dictionary. Meaning of the records: pytorch `torch/serialization.py`, `torch/_utils.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llama_rt.errors import CheckpointError
from llama_rt.formats.archive import read_entries
from llama_rt.formats.dtypes import STORED
from llama_rt.formats.mapping import MappedFile
from llama_rt.formats.pickles import Allowed, PickleError, load_pickle
from llama_rt.formats.records import Slice, Source, Strided, TensorRecord, check_count, make_record

__all__ = ["read_pth"]

_MAX_PICKLE = 4 << 20  # names and shapes: a few hundred bytes per tensor
_MAX_AXES = 16
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001

_STORAGES = {
    "torch.DoubleStorage": "f64", "torch.FloatStorage": "f32", "torch.HalfStorage": "f16",
    "torch.BFloat16Storage": "bf16", "torch.LongStorage": "i64", "torch.IntStorage": "i32",
    "torch.ShortStorage": "i16", "torch.CharStorage": "i8", "torch.ByteStorage": "u8",
    "torch.BoolStorage": "bool",
}  # fmt: skip
_DTYPES = {
    "torch.float64": "f64", "torch.float32": "f32", "torch.float16": "f16",
    "torch.bfloat16": "bf16", "torch.int64": "i64", "torch.int32": "i32", "torch.int16": "i16",
    "torch.int8": "i8", "torch.uint8": "u8", "torch.uint16": "u16", "torch.uint32": "u32",
    "torch.uint64": "u64", "torch.bool": "bool", "torch.float8_e4m3fn": "f8_e4m3",
    "torch.float8_e5m2": "f8_e5m2",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _StorageType:
    """A storage class: its element type, or untyped bytes."""

    dtype: str | None


@dataclass(frozen=True, slots=True)
class _ElementType:
    """A dtype such as `torch.float16`."""

    dtype: str


@dataclass(frozen=True, slots=True)
class _Storage:
    """A named run of elements, not yet located in the file; `start` counts elements."""

    key: str
    dtype: str | None
    numel: int
    start: int = 0


@dataclass(frozen=True, slots=True)
class _View:
    """A tensor: part of a storage; offset and strides in elements."""

    storage: _Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_pth(path: Path) -> dict[str, TensorRecord]:
    """Opens a file that `torch.save` wrote; tensors under the names of its dictionary.

    A dictionary nested under `"state_dict"`, `"model"` or `"module"` is unwrapped when the outer
    one holds no tensors.

    Raises:
        CheckpointError: damaged, truncated, or it asks for anything but tensors.
    """
    file = MappedFile(path)
    try:
        if file.copy(0, min(4, file.size), "the magic number") == b"PK\x03\x04":
            tree, locate = _read_zip(file)
        else:
            tree, locate = _read_legacy(file)
        return _records(file, _tensors_of(tree), locate)
    except PickleError as error:
        msg = f"{path}: refused: {error}"
        raise CheckpointError(msg) from None


_Locate = Callable[[_Storage, str], Slice]


def _read_zip(file: MappedFile) -> tuple[object, _Locate]:
    entries = read_entries(file)
    pickles = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        msg = f"{file.path}: a zip archive with {len(pickles)} entries data.pkl; torch writes one"
        raise CheckpointError(msg)
    folder = pickles[0][: -len("data.pkl")]
    order = entries.get(folder + "byteorder")
    if order is not None and file.copy(order.offset, order.size, "byteorder") == b"big":
        msg = f"{file.path}: written on a big-endian machine, which is not supported"
        raise CheckpointError(msg)
    data = _small(file, entries[pickles[0]].offset, entries[pickles[0]].size)
    tree, _ = load_pickle(data, 0, allowed=_ALLOWED, persistent=_persistent)

    def locate(storage: _Storage, tensor: str) -> Slice:
        entry = entries.get(f"{folder}data/{storage.key}")
        if entry is None:
            msg = f"{file.path}: tensor {tensor!r}: its storage {storage.key[:80]!r} is missing"
            raise CheckpointError(msg)
        return Slice(file, entry.offset, entry.size, f"tensor {tensor!r}")

    return tree, locate


def _small(file: MappedFile, offset: int, size: int) -> bytes:
    if size > _MAX_PICKLE:
        msg = f"{file.path}: a pickle of {size} bytes; at most {_MAX_PICKLE} are read"
        raise CheckpointError(msg)
    return file.copy(offset, size, "data.pkl")


def _read_legacy(file: MappedFile) -> tuple[object, _Locate]:
    """Magic, protocol and system pickles, the object, the storage keys, then raw storages."""
    data = file.copy(0, min(file.size, _MAX_PICKLE), "the pickles")
    storages: dict[str, _Storage] = {}

    def persistent(saved: object) -> object:
        storage = _persistent(saved)
        known = storages.setdefault(storage.key, storage)
        if known.dtype != storage.dtype:
            msg = f"storage {storage.key[:80]!r} has two element types"
            raise PickleError(msg)
        return _legacy_view(saved, storage)

    def load(position: int) -> tuple[object, int]:
        return load_pickle(data, position, allowed=_ALLOWED, persistent=persistent)

    if data[:1] != b"\x80":
        msg = f"{file.path}: neither a zip archive nor a pickle that torch wrote"
        raise CheckpointError(msg)
    magic, position = load(0)
    if magic != _LEGACY_MAGIC:
        msg = f"{file.path}: a pickle, but not one that torch.save wrote"
        raise CheckpointError(msg)
    protocol, position = load(position)
    if protocol != _LEGACY_PROTOCOL:
        found = protocol if isinstance(protocol, int) else "unknown"
        msg = f"{file.path}: torch's legacy format {found}; {_LEGACY_PROTOCOL} is read"
        raise CheckpointError(msg)
    system, position = load(position)
    if isinstance(system, dict) and system.get("little_endian") is False:
        msg = f"{file.path}: written on a big-endian machine, which is not supported"
        raise CheckpointError(msg)
    tree, position = load(position)
    keys, position = load(position)
    return tree, _locate_legacy(file, keys, storages, position)


def _locate_legacy(
    file: MappedFile, keys: object, storages: dict[str, _Storage], position: int
) -> _Locate:
    slices: dict[str, Slice] = {}
    for key in keys if isinstance(keys, list) else [keys]:
        storage = storages.get(key) if isinstance(key, str) else None
        if storage is None or storage.dtype is None:
            msg = f"{file.path}: the list of storages names one that no tensor uses"
            raise CheckpointError(msg)
        count = int.from_bytes(file.copy(position, 8, "a storage's length"), "little")
        size = count * STORED[storage.dtype].block_bytes
        slices[storage.key] = Slice(file, position + 8, size, f"storage {storage.key[:80]!r}")
        position += 8 + size

    def locate(storage: _Storage, tensor: str) -> Slice:
        if storage.key not in slices:
            msg = f"{file.path}: tensor {tensor!r}: its storage {storage.key[:80]!r} is missing"
            raise CheckpointError(msg)
        return slices[storage.key]

    return locate


def _legacy_view(saved: object, storage: _Storage) -> _Storage:
    """The sixth element of a legacy id: a part `(key, offset, size)` of the root storage."""
    assert isinstance(saved, tuple)
    if len(saved) < 6 or saved[5] is None:
        return storage
    view = saved[5]
    if not isinstance(view, tuple) or len(view) != 3:
        msg = "a storage view is not a triple"
        raise PickleError(msg)
    return _Storage(storage.key, storage.dtype, _size(view[2]), _size(view[1]))


# --- what the stream may build ---


def _size(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        msg = "a size, offset or stride is not a number that can be one"
        raise PickleError(msg)
    return value


def _sizes(value: object) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)) or len(value) > _MAX_AXES:
        msg = "a shape is not a short tuple"
        raise PickleError(msg)
    return tuple(_size(item) for item in value)


def _persistent(saved: object) -> _Storage:
    if not isinstance(saved, tuple) or len(saved) < 5 or saved[0] != "storage":
        msg = "a persistent id is not that of a storage"
        raise PickleError(msg)
    kind, key, numel = saved[1], saved[2], saved[4]
    if not isinstance(kind, _StorageType) or not isinstance(key, str):
        msg = "a storage has no known class or no name"
        raise PickleError(msg)
    return _Storage(key, kind.dtype, _size(numel))


def _rebuild_tensor(arguments: tuple[object, ...]) -> _View:
    """`_rebuild_tensor[_v2](storage, offset, size, stride, ...)`."""
    if len(arguments) < 4:
        msg = "a tensor with too few parts"
        raise PickleError(msg)
    return _view(arguments, None)


def _rebuild_tensor_v3(arguments: tuple[object, ...]) -> _View:
    """`_rebuild_tensor_v3(storage, offset, size, stride, grad, hooks, dtype, ...)`."""
    if len(arguments) < 7 or not isinstance(arguments[6], _ElementType):
        msg = "a tensor with too few parts"
        raise PickleError(msg)
    return _view(arguments, arguments[6].dtype)


def _view(arguments: tuple[object, ...], dtype: str | None) -> _View:
    storage = arguments[0]
    if not isinstance(storage, _Storage):
        msg = "a tensor without a storage"
        raise PickleError(msg)
    shape, strides = _sizes(arguments[2]), _sizes(arguments[3])
    dtype = dtype or storage.dtype
    if dtype is None or len(shape) != len(strides):
        msg = "a tensor without a type, or with strides that do not fit its shape"
        raise PickleError(msg)
    return _View(storage, dtype, _size(arguments[1]), shape, strides)


def _rebuild_parameter(arguments: tuple[object, ...]) -> object:
    if not arguments or not isinstance(arguments[0], _View):
        msg = "a parameter that is not a tensor"
        raise PickleError(msg)
    return arguments[0]


def _ordered_dict(arguments: tuple[object, ...]) -> object:
    if not arguments:
        return {}
    pairs = arguments[0]
    if isinstance(pairs, list) and all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], (str, int))
        for pair in pairs
    ):
        return {pair[0]: pair[1] for pair in pairs}
    msg = "an OrderedDict made of something other than pairs"
    raise PickleError(msg)


def _latin_bytes(arguments: tuple[object, ...]) -> object:
    """How protocol 2 spells a bytes object."""
    if len(arguments) == 2 and isinstance(arguments[0], str) and arguments[1] == "latin1":
        return arguments[0].encode("latin-1", "replace")
    msg = "bytes in another encoding than latin1"
    raise PickleError(msg)


_ALLOWED: dict[str, object] = {
    "_codecs.encode": Allowed(_latin_bytes),
    "collections.OrderedDict": Allowed(_ordered_dict),
    "torch._utils._rebuild_tensor": Allowed(_rebuild_tensor),
    "torch._utils._rebuild_tensor_v2": Allowed(_rebuild_tensor),
    "torch._utils._rebuild_tensor_v3": Allowed(_rebuild_tensor_v3),
    "torch._utils._rebuild_parameter": Allowed(_rebuild_parameter),
    "torch._utils._rebuild_parameter_with_state": Allowed(_rebuild_parameter),
    "torch.Size": Allowed(lambda arguments: _sizes(arguments[0] if arguments else ())),
    "torch.storage.UntypedStorage": _StorageType(None),
    **{name: _StorageType(dtype) for name, dtype in _STORAGES.items()},
    **{name: _ElementType(dtype) for name, dtype in _DTYPES.items()},
}


# --- from views to records ---


def _tensors_of(tree: object) -> dict[str, _View]:
    """Tensors of a dictionary, and those of dictionaries inside it under dotted names."""
    if not isinstance(tree, dict):
        msg = "it does not hold a dictionary of tensors"
        raise PickleError(msg)
    if not any(isinstance(value, _View) for value in tree.values()):
        for key in ("state_dict", "model", "module"):
            inner = tree.get(key)
            if isinstance(inner, dict):
                tree = inner
                break
    return {str(name): value for name, value in tree.items() if isinstance(value, _View)}


def _records(file: MappedFile, views: dict[str, _View], locate: _Locate) -> dict[str, TensorRecord]:
    check_count(file.path, len(views))
    records = {}
    for name, view in views.items():
        short = name[:200]
        source = _source(file, short, view, locate(view.storage, short))
        records[name] = make_record(name, view.dtype, view.shape, file.path, source)
    return records


def _source(file: MappedFile, name: str, view: _View, storage: Slice) -> Source:
    """Checks a view against its storage; a contiguous one becomes a slice."""
    itemsize = STORED[view.dtype].block_bytes
    held = storage.nbytes // itemsize
    count = math.prod(view.shape)
    offset = view.offset + view.storage.start
    if count == 0:
        return Slice(file, storage.offset, 0, f"tensor {name!r}")
    pairs = list(zip(view.shape, view.strides, strict=True))
    last = offset + sum((size - 1) * stride for size, stride in pairs)
    if last >= held or count > held:
        msg = (
            f"{file.path}: tensor {name!r} of shape {list(view.shape)} reaches element "
            f"{max(last, count - 1)} of a storage that holds {held} ({storage.nbytes} bytes)"
        )
        raise CheckpointError(msg)
    expected = 1
    contiguous = True
    for size, stride in reversed(pairs):
        contiguous &= size == 1 or stride == expected
        expected *= size
    if contiguous:
        start = storage.offset + offset * itemsize
        return Slice(file, start, count * itemsize, f"tensor {name!r}")
    return Strided(storage, itemsize, offset, view.shape, view.strides)
