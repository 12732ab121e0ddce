"""`tokenizer.json` that rewrites a sentencepiece BPE model: the model is recovered from it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama_rt.errors import TokenizerError
from llama_rt.tokenizer.folder_tokens import added_tokens, named_texts, vocab_rows
from llama_rt.tokenizer.hf_backend import guarded, import_tokenizers
from llama_rt.tokenizer.sentencepiece.spm import SpmEncoder, SpmTokenizer, open_proto
from llama_rt.tokenizer.sentencepiece.spm_model import PieceKind, SpmModel, serialize_model
from llama_rt.tokenizer.sentencepiece.spm_rebuild import encodable
from llama_rt.tokenizer.sentencepiece.spm_rules import end_rows, folder_rules
from llama_rt.tokenizer.sentencepiece.spm_steps import check_decoder, space_rules, without_prefix
from llama_rt.tokenizer.special import AddedToken

__all__ = ["model_from_json", "spm_from_json"]

_SPACE = "▁"
_BOS, _EOS = "<s>", "</s>"
_BYTE_TEXT = re.compile(r"<0x[0-9A-F]{2}>")
_LOWEST = -1e9  # what sentencepiece gives to pieces made of spaces only
_ADDED = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
_OTHER_RULES = ("ignore_merges", "continuing_subword_prefix", "end_of_word_suffix")


def spm_from_json(
    document: dict[str, Any], file: Path, metadata: Mapping[str, object] | None
) -> SpmTokenizer:
    """Builds the tokenizer from a BPE model with byte fallback.

    transformers writes such files from a sentencepiece model: every way to cut a piece in two
    pieces is a merge, in order of the pieces' scores. Then the model is put together again and
    sentencepiece encodes. Files of another make are left to the `tokenizers` library.

    Args:
        document: The parsed file, its `model.vocab` already checked.
        file: Its path, for errors and for the JSON files next to it.
        metadata: `config.json`.

    Raises:
        TokenizerError: The file contradicts itself, decodes in another way than sentencepiece, or
            the library refuses it.
        MissingExtraError: The `tokenizers` package is needed and not installed.
    """
    check_decoder(document, file)
    merges = _merges(document, file)
    found = added_tokens(file.parent, document)
    model = _model(document, merges, found, file)
    added = {id: token for id, token in found.items() if id >= len(model.texts)}
    if _is_rewritten(document, model, merges):
        proto = serialize_model(encodable(model, (), str(file)))
        encode = open_proto(proto, str(file))
    else:
        encode = _library_encoder(document, model, merges, file)
    return SpmTokenizer(
        model,
        encode,
        name=str(file),
        rules=folder_rules(document, file.parent, model),
        added=added,
        listed=found,
        vocab_size=vocab_rows(metadata),
        stop_ids=end_rows(file.parent, metadata, model, added),
    )


def model_from_json(document: dict[str, Any], file: Path) -> SpmModel | None:
    """The sentencepiece model that a `tokenizer.json` rewrites, or None if it is of another make.

    Args:
        document: The parsed file, its `model.vocab` a map of token to id.
        file: Its path, for errors and for the JSON files next to it.

    Raises:
        TokenizerError: The file contradicts itself.
    """
    merges = _merges(document, file)
    model = _model(document, merges, added_tokens(file.parent, document), file)
    return model if _is_rewritten(document, model, merges) else None


def _merges(document: dict[str, Any], file: Path) -> list[tuple[str, str]]:
    listed = document["model"].get("merges") or []
    if not isinstance(listed, list):
        msg = f"{file}: model.merges: expected a list, got {type(listed).__name__}"
        raise TokenizerError(msg)
    return [_pair(merge, document["model"]["vocab"], file) for merge in listed]


def _pair(merge: object, vocab: Mapping[str, int], file: Path) -> tuple[str, str]:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if isinstance(parts, list) and len(parts) == 2 and all(isinstance(p, str) for p in parts):
        left, right = parts
        if left in vocab and right in vocab and left + right in vocab:
            return left, right
    msg = f"{file}: model.merges: {merge!r} does not join two tokens to a third"
    raise TokenizerError(msg)


def _model(
    document: dict[str, Any],
    merges: list[tuple[str, str]],
    found: Mapping[int, AddedToken],
    file: Path,
) -> SpmModel:
    vocab: dict[str, int] = document["model"]["vocab"]
    size = max(vocab.values(), default=-1) + 1
    if size > 2 * len(vocab) + 256:
        msg = f"{file}: model.vocab: {len(vocab)} tokens have ids up to {size - 1}"
        raise TokenizerError(msg)
    texts, scores, kinds = [""] * size, [0.0] * size, [int(PieceKind.CONTROL)] * size
    ranks = _scores(merges)
    unknown = _unknown(document["model"], file.parent)
    for text, id in vocab.items():
        texts[id], scores[id], kinds[id] = text, ranks.get(text, 0.0), PieceKind.NORMAL
        if text == unknown:
            kinds[id] = PieceKind.UNKNOWN
        elif _BYTE_TEXT.fullmatch(text):
            kinds[id] = PieceKind.BYTE
        elif id in found:
            control = found[id].special or text in (_BOS, _EOS)  # even if called ordinary
            kinds[id] = PieceKind.CONTROL if control else PieceKind.USER_DEFINED
    named = {token.text: id for id, token in found.items()}
    return SpmModel(
        texts=texts,
        scores=scores,
        kinds=kinds,
        unk_id=-1 if unknown is None else vocab[unknown],
        bos_id=named.get(_BOS, -1),
        eos_id=named.get(_EOS, -1),
        byte_fallback=True,
        add_dummy_prefix=space_rules(document).prefix != "never",
        remove_extra_whitespaces=False,
    )


def _unknown(rules: Mapping[str, Any], folder: Path) -> str | None:
    """Names the unknown token; transformers 5 leaves that to the files next to tokenizer.json."""
    named = named_texts(folder, "unk_token")
    usual = [text for text in (*named, "<unk>") if text not in (_BOS, _EOS)]  # named so in 2023
    vocab = rules["vocab"]
    texts = [rules.get("unk_token"), *usual]
    return next((text for text in texts if isinstance(text, str) and text in vocab), None)


def _scores(merges: list[tuple[str, str]]) -> dict[str, float]:
    """Scores whose order is that of the merges.

    Pieces of spaces only share the lowest score in sentencepiece. They are told by standing last
    and having every length up to the longest.
    """
    order = list(dict.fromkeys(left + right for left, right in merges))
    scores = {text: -float(rank) for rank, text in enumerate(order, start=1)}
    spaces = [text for text in order if not text.strip(_SPACE)]
    lengths = sorted(len(text) for text in spaces)
    if set(order[len(order) - len(spaces) :]) == set(spaces) and lengths == list(
        range(2, len(spaces) + 2)
    ):
        scores |= dict.fromkeys(spaces, _LOWEST)
    return scores


def _is_rewritten(
    document: Mapping[str, Any], model: SpmModel, merges: list[tuple[str, str]]
) -> bool:
    """Says whether a sentencepiece model encodes as the file does.

    Its steps must be sentencepiece's, and its merges all cuts of all ordinary pieces, as a
    conversion writes them.
    """
    rules = document["model"]
    if any(rules.get(key) for key in _OTHER_RULES) or not space_rules(document).only_these:
        return False
    if not rules.get("fuse_unk") and model.kinds.count(PieceKind.BYTE) != 256:
        return False  # sentencepiece joins unknown characters
    known = set(merges)
    plain = {text for text, id in rules["vocab"].items() if model.kinds[id] == PieceKind.NORMAL}
    return all(
        (text[:at], text[at:]) in known
        for text in plain
        for at in range(1, len(text))
        if text[:at] in plain and text[at:] in plain
    )


def _library_encoder(
    document: dict[str, Any], model: SpmModel, merges: list[tuple[str, str]], file: Path
) -> SpmEncoder:
    """Lets the library encode, with the file's own steps and its user-defined pieces.

    It gets no control tokens: text that reads like one must not become it.
    """
    library = import_tokenizers(str(file))
    rules = document["model"]
    rows = list(enumerate(zip(model.texts, model.kinds, strict=True)))
    control = {text for _, (text, kind) in rows if kind == PieceKind.CONTROL}
    pairs = zip(rules.get("merges") or [], merges, strict=True)
    bare = {
        **document,
        "model": {
            **rules,
            "vocab": {text: id for text, id in rules["vocab"].items() if text not in control},
            "merges": [
                listed
                for listed, (left, right) in pairs
                if control.isdisjoint((left, right, left + right))
            ],
        },
        "added_tokens": [
            {**_ADDED, "id": id, "content": text}
            for id, (text, kind) in rows
            if kind == PieceKind.USER_DEFINED
        ],
        "post_processor": None,
        "padding": None,
        "truncation": None,
    }
    encoders: dict[bool, Any] = {}

    def encode(text: str, prefix: bool) -> list[int]:
        if prefix not in encoders:
            steps = bare if prefix else without_prefix(bare)
            encoders[prefix] = guarded(
                lambda: library.Tokenizer.from_str(json.dumps(steps)), str(file)
            )
        ids: list[int] = encoders[prefix].encode(text, add_special_tokens=False).ids
        return ids

    encode("a", space_rules(document).prefix != "never")  # a file that is refused is refused here

    return encode
