"""A GGUF file's byte-level BPE vocabulary (Llama 3 and later)."""

from __future__ import annotations

from collections.abc import Mapping

from llama_rt.errors import TokenizerError
from llama_rt.tokenizer.bpe.bpe import BpeTokenizer, BpeVocabulary
from llama_rt.tokenizer.gguf_values import control_note, gguf_flag, gguf_id, gguf_list, gguf_texts
from llama_rt.tokenizer.hf_backend import build_backend
from llama_rt.tokenizer.sentencepiece.spm_model import PieceKind
from llama_rt.tokenizer.settings import TextRules
from llama_rt.tokenizer.special import AddedToken, is_control_text

__all__ = ["bpe_from_gguf"]

_PRE = ("llama-bpe", "llama3", "llama-v3")  # one pattern under three names
_BOS, _EOS = "<|begin_of_text|>", "<|end_of_text|>"


def bpe_from_gguf(metadata: Mapping[str, object], name: str) -> BpeTokenizer:
    """Builds the tokenizer of a GGUF file whose `tokenizer.ggml.model` is `gpt2`.

    Args:
        metadata: The file's key-value pairs.
        name: The file, for errors.

    Raises:
        TokenizerError: A key is missing or inconsistent, or the split pattern is not Llama 3's.
        MissingExtraError: The `tokenizers` package is not installed.
    """
    pre = metadata.get("tokenizer.ggml.pre")
    if pre not in _PRE:
        expected = ", ".join(_PRE)
        msg = f"{name}: tokenizer.ggml.pre: expected one of {expected}, got {pre!r}"
        raise TokenizerError(msg)
    texts = gguf_texts(metadata, "tokens", name)
    kinds = [int(PieceKind.NORMAL)] * len(texts)
    if "tokenizer.ggml.token_type" in metadata:
        kinds = [_kind(kind) for kind in gguf_list(metadata, "token_type", len(texts), name)]
    overridden = [
        id
        for id, text in enumerate(texts)
        if is_control_text(text) and kinds[id] != PieceKind.CONTROL
    ]
    notes = [control_note(id, texts[id], kinds[id]) for id in overridden]
    for id in overridden:
        kinds[id] = int(PieceKind.CONTROL)
    added = {
        id: AddedToken(text, special=kinds[id] != PieceKind.USER_DEFINED)
        for id, text in enumerate(texts)
        if kinds[id] in (PieceKind.CONTROL, PieceKind.UNKNOWN, PieceKind.USER_DEFINED)
    }
    unused = {id for id, kind in enumerate(kinds) if kind == PieceKind.UNUSED}
    ordinary = {id: text for id, text in enumerate(texts) if id not in added and id not in unused}
    vocab = {text: id for id, text in ordinary.items()}
    merges = [_pair(merge, vocab, name) for merge in gguf_texts(metadata, "merges", name)]
    ids = {
        key: gguf_id(metadata, key, len(texts), name, vocab_default)
        for key, vocab_default in (
            ("bos", _index(added, _BOS)),
            ("eos", _index(added, _EOS)),
            ("eot", None),
            ("eom", None),
        )
    }
    backend = build_backend(vocab, merges, name)
    return BpeTokenizer(
        lambda text: backend.encode(text, add_special_tokens=False).ids,
        BpeVocabulary(
            tokens=ordinary,
            added=added,
            rules=TextRules(
                add_bos=gguf_flag(metadata, "add_bos_token", True, name),
                add_eos=gguf_flag(metadata, "add_eos_token", False, name),
                pre_tokenizer="llama-bpe",
                notes=tuple(notes),
            ),
            vocab_size=len(texts),
            bos_id=ids["bos"],
            eos_id=ids["eos"],
            stop_ids=frozenset(id for id in (ids["eot"], ids["eom"]) if id is not None),
            unsampled_ids=frozenset(unused),
        ),
    )


def _kind(value: object) -> int:
    return value if isinstance(value, int) else PieceKind.NORMAL


def _index(added: Mapping[int, AddedToken], text: str) -> int | None:
    return next((id for id, token in added.items() if token.text == text), None)


def _pair(text: str, vocab: Mapping[str, int], name: str) -> tuple[str, str]:
    """Cuts a merge at its first space from index 1 on (a part may itself begin with a space)."""
    at = text.find(" ", 1)
    left, right = text[:at], text[at + 1 :]
    if at < 0 or left not in vocab or right not in vocab or left + right not in vocab:
        msg = f"{name}: tokenizer.ggml.merges: {text[:60]!r} does not join two tokens to a third"
        raise TokenizerError(msg)
    return left, right
