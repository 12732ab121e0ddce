"""The protobuf of a sentencepiece model: read the part that matters, write one from a vocabulary.

Field numbers are those of sentencepiece's `sentencepiece_model.proto`; no protobuf library is used.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from enum import IntEnum

__all__ = [
    "PieceKind",
    "SpmModel",
    "SpmModelError",
    "parse_model",
    "serialize_model",
    "with_control_pieces",
    "with_dummy_prefix",
]

_MAX_PIECES = 1 << 24
_DEFAULT_UNK_SURFACE = " ⁇ "
_BYTES = [bytes([value]) for value in range(0x80)]
_BPE = 2


class PieceKind(IntEnum):
    """Type of a vocabulary row; sentencepiece and GGUF use the same numbers."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class SpmModelError(ValueError):
    """The bytes are no sentencepiece model; the caller adds the file's name."""


@dataclass
class SpmModel:
    """Vocabulary and rules of a sentencepiece model; the three lists run parallel, by id."""

    texts: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    unk_id: int = 0
    bos_id: int = 1
    eos_id: int = 2
    pad_id: int = -1
    unk_surface: str = _DEFAULT_UNK_SURFACE
    byte_fallback: bool = False
    whitespace_as_suffix: bool = False
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    denormalizes: bool = False


def parse_model(data: bytes) -> SpmModel:
    """Reads a serialized ModelProto.

    Raises:
        SpmModelError: The bytes are not a ModelProto, or it has no pieces.
    """
    model = SpmModel()
    specs = {2: _read_trainer, 3: _read_normalizer}
    seen = set()
    for number, value in _fields(data):
        seen.add(number)
        if number == 1:
            _read_piece(_bytes(value), model)
        elif number in specs:
            specs[number](_bytes(value), model)
        elif number == 5:
            model.denormalizes = any(n == 2 and v for n, v in _fields(_bytes(value)))
    if not model.texts:
        msg = "not a sentencepiece model: it has no pieces"
        raise SpmModelError(msg)
    if not specs.keys() <= seen:
        msg = "truncated: the rules after the pieces are missing"
        raise SpmModelError(msg)
    return model


def _read_piece(data: bytes, model: SpmModel) -> None:
    text, score, kind = b"", 0.0, int(PieceKind.NORMAL)
    for number, value in _fields(data):
        if number == 1:
            text = _bytes(value)
        elif number == 2:
            score = struct.unpack("<f", _bytes(value, 4))[0]
        elif number == 3:
            kind = _int(value)
    if len(model.texts) >= _MAX_PIECES:
        msg = f"more than {_MAX_PIECES} pieces"
        raise SpmModelError(msg)
    model.texts.append(_text(text))
    model.scores.append(score)
    model.kinds.append(kind)


def _read_trainer(data: bytes, model: SpmModel) -> None:
    for number, value in _fields(data):
        if number == 24:
            model.whitespace_as_suffix = bool(_int(value))
        elif number == 35:
            model.byte_fallback = bool(_int(value))
        elif number == 40:
            model.unk_id = _int(value)
        elif number == 41:
            model.bos_id = _int(value)
        elif number == 42:
            model.eos_id = _int(value)
        elif number == 43:
            model.pad_id = _int(value)
        elif number == 44:
            model.unk_surface = _text(_bytes(value))


def _read_normalizer(data: bytes, model: SpmModel) -> None:
    for number, value in _fields(data):
        if number == 3:
            model.add_dummy_prefix = bool(_int(value))
        elif number == 4:
            model.remove_extra_whitespaces = bool(_int(value))


def serialize_model(model: SpmModel) -> bytes:
    """Writes a BPE ModelProto with identity normalisation from `model`.

    sentencepiece wants one unknown piece, unique non-empty texts and either no byte pieces or all
    256; the caller sees to that.
    """
    out = bytearray()
    for text, score, kind in zip(model.texts, model.scores, model.kinds, strict=True):
        piece = _tag_bytes(1, text.encode()) + b"\x15" + struct.pack("<f", score)
        out += _tag_bytes(1, piece + _tag_int(3, kind))
    trainer = _tag_int(3, _BPE) + _tag_int(4, len(model.texts)) + _tag_int(35, model.byte_fallback)
    ids = (model.unk_id, model.bos_id, model.eos_id, model.pad_id)
    for number, id in enumerate(ids, start=40):
        trainer += _tag_int(number, id)
    trainer += _tag_bytes(44, model.unk_surface.encode())
    for number, id in enumerate(ids, start=45):
        if 0 <= id < len(model.texts):
            trainer += _tag_bytes(number, model.texts[id].encode())
    rules = _tag_bytes(1, b"identity") + _tag_int(3, model.add_dummy_prefix)
    rules += _tag_int(4, model.remove_extra_whitespaces) + _tag_int(5, 1)
    return bytes(out) + _tag_bytes(2, trainer) + _tag_bytes(3, rules)


def with_dummy_prefix(proto: bytes, wanted: bool) -> bytes:
    """The same model with or without a leading space: fields of a later message are merged."""
    return proto + _tag_bytes(3, _tag_int(3, wanted))


def with_control_pieces(proto: bytes, ids: Container[int]) -> bytes:
    """The same model with the pieces `ids` as control pieces, which no text becomes."""
    out, id = bytearray(), -1
    for number, value in _fields(proto):
        data = _bytes(value)
        if number == 1:
            id += 1
            data += _tag_int(3, PieceKind.CONTROL) if id in ids else b""
        out += _tag_bytes(number, data)
    return bytes(out)


def _varint(value: int) -> bytes:
    if 0 <= value < 0x80:  # nearly all: tags, kinds, lengths of pieces
        return _BYTES[value]
    value &= (1 << 64) - 1  # negative numbers take ten bytes, as protobuf does
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _tag_int(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _tag_bytes(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yields (field number, varint or bytes); fixed-width values come as their bytes."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _read_varint(data, at)
        wire = tag & 7
        if wire == 0:
            value, at = _read_varint(data, at)
            yield tag >> 3, value
            continue
        if wire == 2:
            size, at = _read_varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            msg = f"not a sentencepiece model: wire type {wire} at byte {at}"
            raise SpmModelError(msg)
        if size > end - at:
            msg = f"truncated: a field needs {size} bytes at {at}, {end - at} are left"
            raise SpmModelError(msg)
        yield tag >> 3, data[at : at + size]
        at += size


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        if at >= len(data):
            msg = "truncated: the bytes end within a number"
            raise SpmModelError(msg)
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & ((1 << 64) - 1), at
        shift += 7
    msg = f"not a sentencepiece model: a number longer than ten bytes at {at}"
    raise SpmModelError(msg)


def _bytes(value: int | bytes, size: int | None = None) -> bytes:
    if isinstance(value, int) or (size is not None and len(value) != size):
        msg = "not a sentencepiece model: a field has the wrong wire type"
        raise SpmModelError(msg)
    return value


def _int(value: int | bytes) -> int:
    """Reads a varint as int32."""
    if not isinstance(value, int):
        msg = "not a sentencepiece model: a field has the wrong wire type"
        raise SpmModelError(msg)
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >= 1 << 31 else value


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        msg = f"not a sentencepiece model: a piece is not UTF-8: {value[:32]!r}"
        raise SpmModelError(msg) from None
