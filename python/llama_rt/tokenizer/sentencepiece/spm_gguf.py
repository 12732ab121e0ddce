"""A GGUF file's SentencePiece vocabulary, rebuilt as the model it was written from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from llama_rt.errors import TokenizerError
from llama_rt.tokenizer.protocol import check_text
from llama_rt.tokenizer.sentencepiece.spm import SpmTokenizer, open_proto
from llama_rt.tokenizer.sentencepiece.spm_model import PieceKind, SpmModel, serialize_model
from llama_rt.tokenizer.sentencepiece.spm_rebuild import encodable
from llama_rt.tokenizer.special import AddedToken, is_padding_text

__all__ = ["gguf_flag", "gguf_id", "gguf_list", "gguf_texts", "spm_from_gguf"]

_KINDS = frozenset(kind.value for kind in PieceKind)
_PREFIX = "tokenizer.ggml."
_NO_ID = 0xFFFFFFFF
_ADDED_SCORE = -1000.0  # what llama.cpp's converter gives to added tokens
_BYTE_TEXT = re.compile(r"<0x[0-9A-F]{2}>")
_CONTROL_TEXT = re.compile(r"<[^<>]+>|\[[A-Z]+\d*\]")


def spm_from_gguf(metadata: Mapping[str, object], name: str) -> SpmTokenizer:
    """Builds the tokenizer of a GGUF file whose `tokenizer.ggml.model` is `llama`.

    Args:
        metadata: The file's key-value pairs.
        name: The file, for errors.

    Raises:
        TokenizerError: A key is missing or inconsistent; names it.
    """
    model = _read_rows(metadata, name)
    ends = {gguf_id(metadata, key, len(model.texts), name) for key in ("eot", "eom")}
    added = _separate_added(model, {model.bos_id, model.eos_id, *ends})
    unused = [id for id, kind in enumerate(model.kinds) if kind == PieceKind.UNUSED]
    proto = serialize_model(encodable(model, added, name))
    return SpmTokenizer(
        model,
        open_proto(proto, name),
        name=name,
        added=added,
        stop_ids=[id for id in ends if id is not None],
        unsampled_ids=unused,
    )


def _read_rows(metadata: Mapping[str, object], name: str) -> SpmModel:
    """Reads tokens, scores, types, special ids and rules as they stand in the file."""
    texts = gguf_texts(metadata, "tokens", name)
    size = len(texts)
    scores = [_number(x, "scores", name) for x in gguf_list(metadata, "scores", size, name)]
    if not all(map(_is_float32, scores)):
        msg = f"{name}: {_PREFIX}scores: expected finite 32-bit numbers"
        raise TokenizerError(msg)
    if _PREFIX + "token_type" in metadata:
        types = gguf_list(metadata, "token_type", size, name)
        kinds = [_kind(_number(x, "token_type", name), name) for x in types]
    else:
        kinds = [int(PieceKind.NORMAL)] * size
        for id, text in ((id, text) for id, text in enumerate(texts[:3]) if text.startswith("<")):
            kinds[id] = PieceKind.UNKNOWN if text == "<unk>" else PieceKind.CONTROL
    bytes_at = [id for id, text in enumerate(texts) if _BYTE_TEXT.fullmatch(text)]
    if PieceKind.BYTE not in kinds and len({texts[id] for id in bytes_at}) == 256:
        for id in bytes_at:  # early files gave byte tokens the type of ordinary ones
            kinds[id] = PieceKind.BYTE
    model = SpmModel(
        texts=texts,
        scores=scores,
        kinds=kinds,
        byte_fallback=PieceKind.BYTE in kinds,
        add_dummy_prefix=gguf_flag(metadata, "add_space_prefix", True, name),
        remove_extra_whitespaces=gguf_flag(metadata, "remove_extra_whitespaces", False, name),
    )
    for key, default in (("bos", 1), ("eos", 2), ("unk", 0)):
        token = gguf_id(metadata, "unknown" if key == "unk" else key, size, name, default)
        setattr(model, f"{key}_id", -1 if token is None else token)
    if model.unk_id < 0 or kinds[model.unk_id] != PieceKind.UNKNOWN:
        model.unk_id = kinds.index(PieceKind.UNKNOWN) if PieceKind.UNKNOWN in kinds else -1
    return model


def _separate_added(model: SpmModel, control_ids: set[int | None]) -> dict[int, AddedToken]:
    """Finds rows that are added tokens; makes named control tokens typed as text control tokens.

    llama.cpp's converter gives added tokens the score -1000 and the type user-defined; a
    user-defined piece of the sentencepiece model itself has another score and stays a piece.
    """
    added: dict[int, AddedToken] = {}
    for id, (text, kind) in enumerate(zip(model.texts, model.kinds, strict=True)):
        if kind in (PieceKind.USER_DEFINED, PieceKind.NORMAL) and (
            is_padding_text(text) or (id in control_ids and _CONTROL_TEXT.fullmatch(text))
        ):
            added[id] = AddedToken(text, special=True)
            model.kinds[id] = PieceKind.CONTROL
        elif kind == PieceKind.USER_DEFINED and model.scores[id] == _ADDED_SCORE:
            added[id] = AddedToken(text, special=False)
        elif kind == PieceKind.CONTROL and is_padding_text(text):
            added[id] = AddedToken(text, special=True)
    return added


def gguf_list(
    metadata: Mapping[str, object], key: str, size: int | None, name: str
) -> Sequence[object]:
    """Returns the array `tokenizer.ggml.<key>`, of `size` elements if given.

    Raises:
        TokenizerError: The key is missing, no array, empty or of another length.
    """
    value = metadata.get(_PREFIX + key)
    value = value.tolist() if hasattr(value, "tolist") else value
    if value is None:
        msg = f"{name}: {_PREFIX}{key} is missing"
        raise TokenizerError(msg)
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        msg = f"{name}: {_PREFIX}{key}: expected an array, got {type(value).__name__}"
        raise TokenizerError(msg)
    if not value or (size is not None and len(value) != size):
        expected = "at least 1" if size is None else str(size)
        msg = f"{name}: {_PREFIX}{key}: expected {expected} elements, got {len(value)}"
        raise TokenizerError(msg)
    return value


def gguf_texts(metadata: Mapping[str, object], key: str, name: str) -> list[str]:
    """Returns the strings of the array `tokenizer.ggml.<key>`, without lone surrogates.

    Raises:
        TokenizerError: The key is missing, or no array of strings.
    """
    texts = []
    for at, text in enumerate(gguf_list(metadata, key, None, name)):
        if not isinstance(text, str):
            msg = f"{name}: {_PREFIX}{key}[{at}]: expected a string, got {type(text).__name__}"
            raise TokenizerError(msg)
        texts.append(check_text(text))
    return texts


def gguf_id(
    metadata: Mapping[str, object], key: str, size: int, name: str, default: int | None = None
) -> int | None:
    """Returns the id `tokenizer.ggml.<key>_token_id`, or `default` if it exists, or None.

    Raises:
        TokenizerError: The id is outside `[0, size)`.
    """
    value = metadata.get(f"{_PREFIX}{key}_token_id")
    if value is None:
        return default if default is not None and default < size else None
    number = _number(value, f"{key}_token_id", name)
    if number in (_NO_ID, -1):
        return None
    if not 0 <= number < size or number % 1:
        msg = f"{name}: {_PREFIX}{key}_token_id: {number} is not in [0, {size})"
        raise TokenizerError(msg)
    return int(number)


def gguf_flag(metadata: Mapping[str, object], key: str, default: bool, name: str) -> bool:
    """Returns the flag `tokenizer.ggml.<key>`."""
    value = metadata.get(_PREFIX + key)
    return default if value is None else bool(_number(value, key, name))


def _number(value: object, key: str, name: str) -> float:
    if isinstance(value, (int, float)):
        return value
    item = getattr(value, "item", None)  # a numpy scalar
    if item is not None and isinstance(item(), (int, float)):
        return float(item())
    msg = f"{name}: {_PREFIX}{key}: expected a number, got {type(value).__name__}"
    raise TokenizerError(msg)


def _is_float32(value: float) -> bool:
    return abs(value) < 2.0**128  # false for NaN


def _kind(value: float, name: str) -> int:
    if value == 0:  # "undefined" in llama.cpp, where such tokens encode like ordinary ones
        return PieceKind.NORMAL
    if value in _KINDS:
        return int(value)
    msg = f"{name}: {_PREFIX}token_type: {value:g} is not one of 1 to 6"
    raise TokenizerError(msg)
