"""Koala's differences: EasyLM's stream of parameters.

Format: young-geng/EasyLM `EasyLM/checkpoint.py`; one MessagePack pair (key, bytes) after another,
where the bytes are flax's serialization of one array (google/flax `flax/serialization.py`).
Kernels are transposed, `[in, out]`; rotary pairs are adjacent, as Meta's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llama_rt.checkpoint.assemble import verify
from llama_rt.checkpoint.checkpoint import Checkpoint
from llama_rt.errors import CheckpointError
from llama_rt.files import kind_of, read_head
from llama_rt.formats.mapping import MappedFile
from llama_rt.formats.msgpack import Extent, Item, read_item
from llama_rt.formats.records import Slice, Source, Stack, TensorRecord, make_record

__all__ = ["is_koala", "koala_width", "open_koala"]

_ARRAY = 1  # flax's extension for an array
_CHUNKED = "__msgpack_chunked_array__"
_DTYPES = {"bfloat16": ("bf16", 2), "float16": ("f16", 2), "float32": ("f32", 4)}
_MAX_KEYS = 8
_LAYER = re.compile(
    r"transformer/h/(\d{1,6})/"
    r"(attention/w[qkvo]|feed_forward/w[123]|attention_norm|ffn_norm)/kernel"
)
_OUTER = {
    "transformer/wte/embedding": "tok_embeddings.weight",
    "transformer/ln_f/kernel": "norm.weight",
    "lm_head/kernel": "output.weight",
}


@dataclass(frozen=True, slots=True)
class Transposed:
    """A matrix stored `[columns, rows]`; read as `[rows, columns]`."""

    source: Source
    rows: int
    columns: int

    @property
    def nbytes(self) -> int:
        """Length of what `read` gives."""
        return self.source.nbytes

    def read(self) -> npt.NDArray[np.uint8]:
        """A transposed copy."""
        size = self.nbytes // max(1, self.rows * self.columns)
        items = self.source.read().view(np.dtype(f"<u{size}")).reshape(self.columns, self.rows)
        return np.ascontiguousarray(items.T).reshape(-1).view(np.uint8)


def is_koala(path: Path) -> bool:
    """Whether a file begins as an EasyLM stream: a pair whose first half is a list of texts."""
    if kind_of(path) != "file":
        return False
    head = read_head(path, 3)
    is_list = len(head) == 3 and (0x91 <= head[1] <= 0x9F)
    return is_list and head[0] == 0x92 and (0xA0 <= head[2] < 0xC0 or head[2] == 0xD9)


def open_koala(path: Path, base: Checkpoint) -> Checkpoint:
    """Opens the stream as a delta for `base`, whose sizes and tokenizer it shares.

    Raises:
        CheckpointError: damaged, or for a model of other sizes.
    """
    tensors: dict[str, TensorRecord] = {}
    for record in _records(MappedFile(path)):
        if record.name in tensors:
            msg = f"{path}: {_spelling(record.name)!r} is there twice"
            raise CheckpointError(msg)
        tensors[record.name] = record
    rows = tensors["tok_embeddings.weight"].shape[0] if "tok_embeddings.weight" in tensors else 0
    config = replace(
        base.config,
        rope_style="interleaved",
        tie_embeddings=False,
        vocab_size=rows or base.config.vocab_size,
        name="Koala",
    )
    return replace(base, config=config, tensors=verify(tensors, config, path, _spelling))


def _records(file: MappedFile) -> Iterator[TensorRecord]:
    offset = 0
    while offset < file.size:
        pair, offset = read_item(file, offset, file.size)
        if not isinstance(pair, list) or len(pair) != 2:
            msg = f"{file.path}: not EasyLM's stream: the object before offset {offset} is no pair"
            raise CheckpointError(msg)
        key, value = pair
        name = _name(file.path, key)
        if isinstance(value, Extent) and value.code is None:
            value, _ = read_item(file, value.offset, value.offset + value.nbytes)
        yield _record(file, name, value)


def _name(path: Path, key: Item) -> str:
    """Canonical name of a key path; a train state has `params` twice in front."""
    parts = key if isinstance(key, list) else []
    texts = [part for part in parts if isinstance(part, str)]
    while texts and texts[0] == "params":
        del texts[0]
    joined = "/".join(texts)
    layer = _LAYER.fullmatch(joined)
    if layer and len(parts) <= _MAX_KEYS:
        return f"layers.{int(layer[1])}.{layer[2].replace('/', '.')}.weight"
    if joined in _OUTER and len(parts) <= _MAX_KEYS:
        return _OUTER[joined]
    msg = f"{path}: parameter {joined[:120]!r} has no place in a LLaMA model"
    raise CheckpointError(msg)


def _record(file: MappedFile, name: str, value: Item) -> TensorRecord:
    shape, dtype, source = (
        _chunked(file, name, value) if isinstance(value, dict) else _array(file, name, value)
    )
    if len(shape) == 2 and name != "tok_embeddings.weight":
        columns, rows = shape
        shape, source = (rows, columns), Transposed(source, rows, columns)
    return make_record(name, dtype, shape, file.path, source)


def _array(file: MappedFile, name: str, value: Item) -> tuple[tuple[int, ...], str, Source]:
    """One array: (shape, dtype name, row-major bytes)."""
    if isinstance(value, Extent) and value.code == _ARRAY:
        inner, _ = read_item(file, value.offset, value.offset + value.nbytes)
        if isinstance(inner, list) and len(inner) == 3:
            shape, dtype, raw = inner
            known = _DTYPES.get(dtype) if isinstance(dtype, str) else None
            if known is None:
                msg = f"{file.path}: {_spelling(name)!r} has dtype {str(dtype)[:40]!r}; known: "
                raise CheckpointError(msg + ", ".join(_DTYPES))
            if isinstance(raw, Extent):
                sizes = _shape(file, name, shape)
                expected = int(np.prod(sizes, dtype=object)) * known[1]
                if raw.nbytes != expected:
                    msg = (
                        f"{file.path}: {_spelling(name)!r} of shape {list(sizes)} needs "
                        f"{expected} bytes, but {raw.nbytes} are stored"
                    )
                    raise CheckpointError(msg)
                return sizes, known[0], Slice(file, raw.offset, raw.nbytes, _spelling(name))
    msg = f"{file.path}: {_spelling(name)!r} is no array as flax writes it"
    raise CheckpointError(msg)


def _chunked(
    file: MappedFile, name: str, value: dict[Item, Item]
) -> tuple[tuple[int, ...], str, Source]:
    """An array of more than 2^30 bytes: flattened pieces, numbered."""
    chunks, shape = value.get("chunks"), value.get("shape")
    if value.get(_CHUNKED) is not True or not isinstance(chunks, dict):
        msg = f"{file.path}: {_spelling(name)!r} is a map but no chunked array"
        raise CheckpointError(msg)
    pieces = [_array(file, name, chunk) for chunk in _numbered(file, name, chunks)]
    dtypes = {dtype for _, dtype, _ in pieces}
    if len(dtypes) != 1:
        msg = f"{file.path}: {_spelling(name)!r} has chunks of types {sorted(dtypes)}"
        raise CheckpointError(msg)
    source = Stack(tuple(piece for _, _, piece in pieces))
    return _shape(file, name, shape), dtypes.pop(), source


def _shape(file: MappedFile, name: str, shape: Item) -> tuple[int, ...]:
    sizes = _numbered(file, name, shape) if isinstance(shape, dict) else shape
    if isinstance(sizes, list) and 1 <= len(sizes) <= 2:
        whole = [n for n in sizes if isinstance(n, int) and not isinstance(n, bool) and n > 0]
        if len(whole) == len(sizes):
            return tuple(whole)
    msg = f"{file.path}: {_spelling(name)!r} has no shape of one or two sizes"
    raise CheckpointError(msg)


def _numbered(file: MappedFile, name: str, items: Mapping[Item, Item]) -> list[Item]:
    """The values of `{"0": ..., "1": ...}` in order."""
    keys: list[Item] = [str(i) for i in range(len(items))]
    if any(key not in items for key in keys):
        msg = f"{file.path}: {_spelling(name)!r} has pieces that are not numbered from 0"
        raise CheckpointError(msg)
    return [items[key] for key in keys]


def _spelling(name: str) -> str:
    """EasyLM's path of a canonical name."""
    outer = {ours: theirs for theirs, ours in _OUTER.items()}
    if name in outer:
        return outer[name]
    _, layer, rest = name.split(".", 2)
    return f"transformer/h/{layer}/{rest.rsplit('.', 1)[0].replace('.', '/')}/kernel"


def koala_width(path: Path) -> int:
    """Width of the model that a stream is for; 0 if its embedding does not come.

    Raises:
        CheckpointError: damaged before that.
    """
    for record in _records(MappedFile(path)):
        if record.name == "tok_embeddings.weight":
            return record.shape[-1]
    return 0
