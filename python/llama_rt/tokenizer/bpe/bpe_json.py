"""`tokenizer.json` of the `tokenizers` library: byte-level BPE or rewritten sentencepiece."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_rt.errors import MissingExtraError, TokenizerError
from llama_rt.tokenizer.bpe.bpe import BpeTokenizer, BpeVocabulary
from llama_rt.tokenizer.bpe.encoder import bpe_encoder, merge_rows, split_name
from llama_rt.tokenizer.bpe.pipeline import UnsupportedStepError, read_pipeline
from llama_rt.tokenizer.folder_tokens import added_tokens, end_ids, named_texts, vocab_rows
from llama_rt.tokenizer.framing import folder_frame
from llama_rt.tokenizer.hf_backend import guarded, import_tokenizers
from llama_rt.tokenizer.protocol import Tokenizer
from llama_rt.tokenizer.settings import TextRules
from llama_rt.tokenizer.special import AddedToken

__all__ = ["tokenizer_from_json"]

_BOS_TEXTS = ("<|begin_of_text|>", "<s>", "<|startoftext|>")
_END_KEYS = ("eot_token", "eom_token")
_EOS_TEXTS = ("<|end_of_text|>", "</s>", "<|endoftext|>")


def tokenizer_from_json(
    document: dict[str, Any], file: Path, metadata: Mapping[str, object] | None
) -> Tokenizer:
    """Builds the tokenizer from a parsed `tokenizer.json`.

    Args:
        document: The file.
        file: Its path; `tokenizer_config.json` and its like are looked for in its folder.
        metadata: `config.json`.

    Raises:
        TokenizerError: The file is broken, or its model is neither kind of BPE.
        MissingExtraError: The `tokenizers` package is needed and not installed.
    """
    model = document.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        found = model.get("type") if isinstance(model, dict) else model
        msg = f"{file}: model type: expected BPE, got {found!r}"
        raise TokenizerError(msg)
    vocab = model.get("vocab")
    if not isinstance(vocab, dict) or not all(_is_row(id) for id in vocab.values()):
        msg = f"{file}: model.vocab: expected a map of token to id"
        raise TokenizerError(msg)
    if model.get("byte_fallback") and not _mentions(document, "ByteLevel"):
        from llama_rt.tokenizer.sentencepiece.spm_json import spm_from_json

        return spm_from_json(document, file, metadata)
    if not _mentions(document, "ByteLevel"):
        msg = f"{file}: expected byte-level BPE or BPE with byte fallback"
        raise TokenizerError(msg)
    return _byte_level(document, vocab, file, metadata)


def _byte_level(
    document: dict[str, Any],
    vocab: dict[str, int],
    file: Path,
    metadata: Mapping[str, object] | None,
) -> BpeTokenizer:
    """Encodes ordinary text as the file says; special tokens are split off on request only."""
    found = added_tokens(file.parent, document)
    tokens = {id: token for id, token in found.items() if token.text}
    texts = {token.text for token in tokens.values()}
    plain = {text: id for text, id in vocab.items() if text not in texts}
    encode, rules = _encoder(document, plain, tokens, file)
    ids = {token.text: id for id, token in tokens.items()}
    ends = end_ids(file.parent, metadata)
    bos = _named(file.parent, "bos_token", ids, _BOS_TEXTS, (metadata or {}).get("bos_token_id"))
    eos = _named(file.parent, "eos_token", ids, _EOS_TEXTS, ends[0] if ends else None)
    named = [
        ids[text] for key in _END_KEYS for text in named_texts(file.parent, key) if text in ids
    ]
    return BpeTokenizer(
        encode,
        BpeVocabulary(
            tokens={id: text for text, id in plain.items()},
            added=tokens,
            rules=replace(rules, frame=folder_frame(file.parent, document, bos, eos)),
            vocab_size=vocab_rows(metadata),
            bos_id=bos,
            eos_id=eos,
            stop_ids=frozenset({*(id for id in ends if id in tokens and id != bos), *named}),
        ),
    )


def _encoder(
    document: dict[str, Any], plain: dict[str, int], added: Mapping[int, AddedToken], file: Path
) -> tuple[Callable[[str], list[int]], TextRules]:
    """The encoder of ordinary text, and the rules that it leaves to the caller."""
    try:
        pipeline = read_pipeline(document, file)
    except UnsupportedStepError as reason:
        return _library_encoder(document, plain, file, str(reason)), TextRules()
    words = {token.text: id for id, token in added.items() if not token.special}
    known = {**document["model"]["vocab"], **words}
    control = {id for id, token in added.items() if token.special}
    rows = merge_rows(_merges(document["model"], file), known, str(file))
    rows = [row for row in rows if control.isdisjoint(row)]
    by_id = {id: text for text, id in plain.items()}
    rules = TextRules(
        prefix_space="always" if pipeline.prefix_space else "never",
        adds_second_space=False,
        normalization=pipeline.normalization,
        pre_tokenizer=split_name(by_id, rows, pipeline.split),
    )
    return bpe_encoder(by_id, rows, pipeline.split, str(file)), rules


def _merges(model: Mapping[str, Any], file: Path) -> list[tuple[str, str]]:
    listed = model.get("merges")
    pairs = []
    for merge in listed if isinstance(listed, list) else []:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not (isinstance(parts, list) and len(parts) == 2):
            msg = f"{file}: model.merges: expected pairs of tokens, got {merge!r:.60}"
            raise TokenizerError(msg)
        pairs.append((str(parts[0]), str(parts[1])))
    return pairs


def _library_encoder(
    document: dict[str, Any], plain: dict[str, int], file: Path, reason: str
) -> Callable[[str], list[int]]:
    """Lets the library encode: `reason` names the step that is more than a pattern.

    It gets no added tokens: text that reads like one must not become it.
    """
    ordinary = {
        **document,
        "added_tokens": [],
        "post_processor": None,
        "padding": None,
        "truncation": None,
        "model": {**document["model"], "vocab": plain},
    }
    try:
        library = import_tokenizers(str(file))
    except MissingExtraError as error:
        msg = f"{reason} needs the tokenizers package: pip install 'llama-rt[hf]'"
        raise MissingExtraError(msg) from error
    backend = guarded(lambda: library.Tokenizer.from_str(json.dumps(ordinary)), str(file))

    def encode(text: str) -> list[int]:
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        return ids

    return encode


def _named(
    folder: Path, key: str, ids: Mapping[str, int], usual: tuple[str, ...], fallback: object
) -> int | None:
    """Finds bos or eos: by the configured text, the configured id, then the usual texts."""
    named = next((ids[text] for text in named_texts(folder, key) if text in ids), None)
    if named is not None:
        return named
    if isinstance(fallback, int) and fallback in ids.values():
        return fallback
    return next((ids[text] for text in usual if text in ids), None)


def _is_row(id: object) -> bool:
    return isinstance(id, int) and 0 <= id < 1 << 24


def _mentions(document: Mapping[str, object], kind: str) -> bool:
    """Says whether the pre-tokenizer or the decoder is, or contains, a step of this type."""
    todo = [document.get("pre_tokenizer"), document.get("decoder")]
    while todo:
        step = todo.pop()
        if isinstance(step, dict):
            if step.get("type") == kind:
                return True
            for key in ("pretokenizers", "decoders"):
                todo += step[key] if isinstance(step.get(key), list) else []
    return False
