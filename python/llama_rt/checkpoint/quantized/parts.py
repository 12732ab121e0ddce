"""The parts that quantized matrices are stored in: found by their suffix, checked, as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from llama_rt.errors import CheckpointError
from llama_rt.formats.records import TensorRecord

__all__ = ["FLOATS", "Bytes", "Floats", "Module", "Raw", "Whole", "array", "floats", "int8s",
           "modules", "words"]  # fmt: skip

Raw: TypeAlias = Mapping[str, TensorRecord]
Bytes: TypeAlias = npt.NDArray[np.uint8]
Floats: TypeAlias = npt.NDArray[np.float32]
Whole: TypeAlias = npt.NDArray[np.int32]

FLOATS = ("f16", "bf16", "f32")
_NUMPY = {"i32": "<i4", "i64": "<i8", "u8": "u1", "i8": "i1", "f8_e4m3": "u1"}


@dataclass(frozen=True, slots=True)
class Module:
    """One layer's parts.

    Attributes:
        name: the layer's, e.g. `model.layers.0.mlp.up_proj`.
        raw: all tensors of the checkpoint.
    """

    name: str
    raw: Raw

    def has(self, suffix: str) -> bool:
        """Whether the part is there."""
        return f"{self.name}.{suffix}" in self.raw

    def find(self, suffix: str) -> TensorRecord:
        """A part of any type and shape.

        Raises:
            CheckpointError: it is missing.
        """
        name = f"{self.name}.{suffix}"
        record = self.raw.get(name)
        if record is None:
            file = next(self.raw[n].file for n in self.raw if n.startswith(f"{self.name}."))
            msg = f"{file}: tensor {name[:200]!r} is missing; the layer's other parts are there"
            raise CheckpointError(msg)
        return record

    def part(self, suffix: str, dtypes: tuple[str, ...], shape: tuple[int, ...]) -> TensorRecord:
        """A part of one of `dtypes`; a size of -1 in `shape` is any.

        Raises:
            CheckpointError: it is missing, or of another type or shape.
        """
        record = self.find(suffix)
        if record.dtype not in dtypes:
            self.refuse(record, f"is stored as {record.dtype}; {' or '.join(dtypes)} was expected")
        fits = len(record.shape) == len(shape) and all(
            want in (-1, have) for have, want in zip(record.shape, shape, strict=True)
        )
        if not fits:
            wanted = ", ".join("any" if size == -1 else str(size) for size in shape)
            self.refuse(record, f"has shape {list(record.shape)}, expected [{wanted}]")
        return record

    def refuse(self, record: TensorRecord, problem: str) -> NoReturn:
        """Raises a CheckpointError about one part."""
        msg = f"{record.file}: tensor {record.name[:200]!r} {problem}"
        raise CheckpointError(msg)


def array(record: TensorRecord) -> npt.NDArray[np.generic]:
    """The whole numbers of a part, a view of the mapped file; f8_e4m3 as its bytes."""
    return record.read().view(_NUMPY[record.dtype]).reshape(record.shape)


def int8s(record: TensorRecord) -> npt.NDArray[np.int8]:
    """An i8 part, a view of the mapped file."""
    return record.read().view(np.int8).reshape(record.shape)


def words(record: TensorRecord) -> Whole:
    """An i32 part, a view of the mapped file."""
    return record.read().view("<i4").reshape(record.shape)


def floats(record: TensorRecord) -> Floats:
    """A float part as float32 of its shape."""
    from llama_rt import _native

    count = int(np.prod(record.shape, dtype=np.int64))
    values = _native.decode(np.ascontiguousarray(record.read()).data, record.dtype, count)
    return values.reshape(record.shape)


def modules(raw: Raw, lead: str) -> Iterator[Module]:
    """Every layer that has the part `lead`."""
    for name in raw:
        if name.endswith(f".{lead}"):
            yield Module(name.removesuffix(f".{lead}"), raw)
