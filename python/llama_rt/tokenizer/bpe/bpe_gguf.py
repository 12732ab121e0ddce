"""A GGUF file's byte-level BPE vocabulary (Llama 3 and later, SmolLM, DeepSeek, Falcon 3, ...)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from llama_rt.errors import TokenizerError
from llama_rt.tokenizer.bpe.bpe import BpeTokenizer, BpeVocabulary
from llama_rt.tokenizer.bpe.encoder import bpe_encoder, merge_rows
from llama_rt.tokenizer.bpe.pre_tokenizers import pre_tokenizer_named
from llama_rt.tokenizer.gguf_values import (
    NORMALIZATION_KEY,
    control_note,
    gguf_flag,
    gguf_id,
    gguf_list,
    gguf_texts,
    token_flags,
)
from llama_rt.tokenizer.sentencepiece.spm_model import PieceKind
from llama_rt.tokenizer.settings import TextRules
from llama_rt.tokenizer.special import AddedToken, is_control_text

__all__ = ["bpe_from_gguf"]

_BOS, _EOS = "<|begin_of_text|>", "<|end_of_text|>"
_ADDED_KINDS = (PieceKind.CONTROL, PieceKind.UNKNOWN, PieceKind.USER_DEFINED)
_NO_NAME = "tokenizer.ggml.pre is missing: GPT-2's split is used; the model may need another"


def bpe_from_gguf(metadata: Mapping[str, object], name: str) -> BpeTokenizer:
    """Builds the tokenizer of a GGUF file whose `tokenizer.ggml.model` is `gpt2`.

    Args:
        metadata: The file's key-value pairs.
        name: The file, for errors.

    Raises:
        TokenizerError: A key is missing or inconsistent, or the pre-tokenizer is unknown.
    """
    pre = metadata.get("tokenizer.ggml.pre")
    notes: list[str] = []
    if pre is None:
        notes.append(_NO_NAME)
        _warn_once(f"{name}: {_NO_NAME}")
    pre = "default" if pre is None else str(pre)
    split = pre_tokenizer_named(pre, name)
    texts = gguf_texts(metadata, "tokens", name)
    kinds = _kinds(metadata, texts, name, notes)
    flags = token_flags(metadata, len(texts), name)
    added = {
        id: AddedToken(text, special=kinds[id] != PieceKind.USER_DEFINED, **flags.get(id, {}))
        for id, text in enumerate(texts)
        if kinds[id] in _ADDED_KINDS
    }
    unused = {id for id, kind in enumerate(kinds) if kind == PieceKind.UNUSED}
    ordinary = {id: text for id, text in enumerate(texts) if id not in added and id not in unused}
    rows = merge_rows(_merges(metadata, name), {t: id for id, t in enumerate(texts)}, name)
    control = {id for id, token in added.items() if token.special} | unused
    rows = [row for row in rows if control.isdisjoint(row)]
    ids = {
        key: gguf_id(metadata, key, len(texts), name, default)
        for key, default in (
            ("bos", _index(added, _BOS)),
            ("eos", _index(added, _EOS)),
            ("eot", None),
            ("eom", None),
        )
    }
    return BpeTokenizer(
        bpe_encoder(ordinary, rows, split, name),
        BpeVocabulary(
            tokens=ordinary,
            added=added,
            rules=TextRules(
                add_bos=gguf_flag(metadata, "add_bos_token", split.add_bos, name),
                add_eos=gguf_flag(metadata, "add_eos_token", False, name),
                prefix_space=(
                    "always" if gguf_flag(metadata, "add_space_prefix", False, name) else "never"
                ),
                adds_second_space=False,
                normalization=_normalization(metadata, name),
                pre_tokenizer=pre,
                notes=tuple(notes),
            ),
            vocab_size=len(texts),
            bos_id=ids["bos"],
            eos_id=ids["eos"],
            stop_ids=frozenset(id for id in (ids["eot"], ids["eom"]) if id is not None),
            unsampled_ids=frozenset(unused),
        ),
    )


def _normalization(metadata: Mapping[str, object], name: str) -> str:
    form = metadata.get(NORMALIZATION_KEY, "")
    if form not in ("", "NFC", "NFD", "NFKC", "NFKD"):
        msg = f"{name}: {NORMALIZATION_KEY}: expected NFC, NFD, NFKC or NFKD, got {form!r}"
        raise TokenizerError(msg)
    return str(form)


@cache
def _warn_once(message: str) -> None:
    import logging  # loaded late: `import llama_rt` stays quick

    logging.getLogger(__name__).warning(message)


def _kinds(
    metadata: Mapping[str, object], texts: list[str], name: str, notes: list[str]
) -> list[int]:
    """Types of the tokens; a token with the text of a control token is one, with a note."""
    kinds = [int(PieceKind.NORMAL)] * len(texts)
    if "tokenizer.ggml.token_type" in metadata:
        listed = gguf_list(metadata, "token_type", len(texts), name)
        kinds = [kind if isinstance(kind, int) else int(PieceKind.NORMAL) for kind in listed]
    for id, text in enumerate(texts):
        if is_control_text(text) and kinds[id] != PieceKind.CONTROL:
            notes.append(control_note(id, text, kinds[id]))
            kinds[id] = int(PieceKind.CONTROL)
    return kinds


def _index(added: Mapping[int, AddedToken], text: str) -> int | None:
    return next((id for id, token in added.items() if token.text == text), None)


def _merges(metadata: Mapping[str, object], name: str) -> list[tuple[str, str]]:
    """Cuts each merge at its first space from index 1 on (a part may itself begin with one)."""
    pairs = []
    for text in gguf_texts(metadata, "merges", name):
        at = text.find(" ", 1)
        if at < 0:
            msg = f"{name}: tokenizer.ggml.merges: {text[:60]!r} does not join two tokens"
            raise TokenizerError(msg)
        pairs.append((text[:at], text[at + 1 :]))
    return pairs
