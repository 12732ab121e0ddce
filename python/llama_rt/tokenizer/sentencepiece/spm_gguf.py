"""A GGUF file's SentencePiece vocabulary, rebuilt as the model it was written from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from llama_rt.errors import TokenizerError
from llama_rt.tokenizer.gguf_values import (
    PREFIX_SPACE_KEY,
    SECOND_SPACE_KEY,
    TOKEN_FLAGS,
    control_note,
    gguf_flag,
    gguf_id,
    gguf_list,
    gguf_number,
    gguf_texts,
    token_flags,
)
from llama_rt.tokenizer.sentencepiece.spm import SpmTokenizer, open_proto
from llama_rt.tokenizer.sentencepiece.spm_model import PieceKind, SpmModel, serialize_model
from llama_rt.tokenizer.sentencepiece.spm_rebuild import encodable
from llama_rt.tokenizer.settings import PrefixSpace, TextRules
from llama_rt.tokenizer.special import AddedToken, is_control_text, is_markup, is_padding_text

__all__ = ["spm_from_gguf"]
_KINDS = frozenset(kind.value for kind in PieceKind)
_PREFIX = "tokenizer.ggml."
_ADDED_SCORE = -1000.0  # what llama.cpp's converter gives to added tokens
_BYTE_TEXT = re.compile(r"<0x[0-9A-F]{2}>")
_KEEPS_SPACE = ("<unk>", "<s>", "<|endoftext|>")
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
    kinds = list(model.kinds)
    added = _separate_added(model, {model.bos_id, model.eos_id, *ends})
    overridden = [
        id for id, token in added.items() if token.special and is_control_text(token.text)
    ]
    notes = [control_note(id, model.texts[id], kinds[id]) for id in overridden]
    for id, flags in token_flags(metadata, len(model.texts), name).items():
        token = added.get(id, AddedToken(model.texts[id], True))
        if id in added or model.kinds[id] in (PieceKind.CONTROL, PieceKind.UNKNOWN):
            added[id] = AddedToken(token.text, token.special, **flags)
    unused = [id for id, kind in enumerate(model.kinds) if kind == PieceKind.UNUSED]
    proto = serialize_model(encodable(model, added, name))
    return SpmTokenizer(
        model,
        open_proto(proto, name),
        name=name,
        rules=_rules(metadata, model, name, tuple(notes)),
        added=_with_space(metadata, added),
        listed=_with_space(metadata, _control(model)),
        stop_ids=[id for id in ends if id is not None],
        unsampled_ids=unused,
    )


def _read_rows(metadata: Mapping[str, object], name: str) -> SpmModel:
    """Reads tokens, scores, types, special ids and rules as they stand in the file."""
    texts = gguf_texts(metadata, "tokens", name)
    size = len(texts)
    scores = [gguf_number(x, "scores", name) for x in gguf_list(metadata, "scores", size, name)]
    if not all(map(_is_float32, scores)):
        msg = f"{name}: {_PREFIX}scores: expected finite 32-bit numbers"
        raise TokenizerError(msg)
    if _PREFIX + "token_type" in metadata:
        types = gguf_list(metadata, "token_type", size, name)
        kinds = [_kind(gguf_number(x, "token_type", name), name) for x in types]
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


def _control(model: SpmModel) -> dict[int, AddedToken]:
    rows = enumerate(zip(model.texts, model.kinds, strict=True))
    return {id: AddedToken(text, True) for id, (text, kind) in rows if kind == PieceKind.CONTROL}


def _with_space(
    metadata: Mapping[str, object], tokens: dict[int, AddedToken]
) -> dict[int, AddedToken]:
    """Gives the tokens of Phi-3 the white space after them, for which GGUF has no key.

    llama.cpp, too, tells them by the model's name. A file that `convert` wrote says it itself.
    """
    if any(key in metadata for key in TOKEN_FLAGS.values()):
        return tokens
    name = str(metadata.get("general.name", "")).lower()
    if "phi-3" not in name and "phi3" not in name:
        return tokens
    return {
        id: replace(token, rstrip=token.text not in _KEEPS_SPACE) for id, token in tokens.items()
    }


def _rules(
    metadata: Mapping[str, object], model: SpmModel, name: str, notes: tuple[str, ...]
) -> TextRules:
    """Rules by their keys; every part between special tokens gets a space, as in llama.cpp.

    `convert` writes two keys of its own for what llama.cpp's flag cannot say.
    """
    prefix: PrefixSpace = "always" if model.add_dummy_prefix else "never"
    own = metadata.get(PREFIX_SPACE_KEY)
    if own is not None:
        if own not in ("never", "first", "always"):
            msg = f"{name}: {PREFIX_SPACE_KEY}: expected never, first or always, got {own!r}"
            raise TokenizerError(msg)
        prefix = own
    return TextRules(
        add_bos=gguf_flag(metadata, "add_bos_token", True, name),
        add_eos=gguf_flag(metadata, "add_eos_token", False, name),
        prefix_space=prefix,
        adds_second_space=bool(metadata.get(SECOND_SPACE_KEY, True)),
        pre_tokenizer="default",
        notes=notes,
    )


def _separate_added(model: SpmModel, control_ids: set[int | None]) -> dict[int, AddedToken]:
    """Finds rows that are added tokens; makes control tokens typed as text control tokens.

    Those are named by a key, or have a text that llama.cpp takes for one whatever its type.

    llama.cpp's converter gives added tokens the score -1000 and the type user-defined; a
    user-defined piece of the sentencepiece model itself has another score and stays a piece, unless
    it looks like a token of a format, which is not read from plain text.
    """
    added: dict[int, AddedToken] = {}
    for id, (text, kind) in enumerate(zip(model.texts, model.kinds, strict=True)):
        if kind in (PieceKind.USER_DEFINED, PieceKind.NORMAL, PieceKind.UNUSED) and (
            is_padding_text(text)
            or is_control_text(text)
            or (id in control_ids and _CONTROL_TEXT.fullmatch(text))
        ):
            added[id] = AddedToken(text, special=True)
            model.kinds[id] = PieceKind.CONTROL
        elif kind == PieceKind.USER_DEFINED and (
            model.scores[id] == _ADDED_SCORE or is_markup(text)
        ):
            added[id] = AddedToken(text, special=False)
        elif kind == PieceKind.CONTROL and is_padding_text(text):
            added[id] = AddedToken(text, special=True)
    return added


def _is_float32(value: float) -> bool:
    return abs(value) < 2.0**128  # false for NaN


def _kind(value: float, name: str) -> int:
    if value == 0:  # "undefined" in llama.cpp, where such tokens encode like ordinary ones
        return PieceKind.NORMAL
    if value in _KINDS:
        return int(value)
    msg = f"{name}: {_PREFIX}token_type: {value:g} is not one of 1 to 6"
    raise TokenizerError(msg)
