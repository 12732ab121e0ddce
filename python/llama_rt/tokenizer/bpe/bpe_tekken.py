"""Mistral's own `tekken.json`: byte-level BPE by ranks, control tokens before them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama_rt.errors import TokenizerError
from llama_rt.tokenizer.bpe.alphabet import BYTE_TO_CHAR
from llama_rt.tokenizer.bpe.bpe import BpeTokenizer, BpeVocabulary
from llama_rt.tokenizer.bpe.encoder import rank_encoder
from llama_rt.tokenizer.bpe.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from llama_rt.tokenizer.folder_tokens import end_ids, vocab_rows
from llama_rt.tokenizer.settings import TextRules
from llama_rt.tokenizer.special import AddedToken

__all__ = ["is_tekken", "tekken_rows", "tokenizer_from_tekken"]

_MAX_ROWS = 1 << 24
# The control tokens of files that do not list theirs (2024), by id; unnamed ones follow. Source:
# mistral-common, tokens/tokenizers/tekken.py.
_SPECIALS = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]"),
    *("[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    "[TOOL_CONTENT]",
)


def is_tekken(document: Mapping[str, object]) -> bool:
    """Says whether a parsed JSON file is of this kind."""
    config = document.get("config")
    return isinstance(config, dict) and "pattern" in config and "vocab" in document


def tokenizer_from_tekken(
    document: Mapping[str, Any], file: Path, metadata: Mapping[str, object] | None
) -> BpeTokenizer:
    """Builds the tokenizer from a parsed `tekken.json`.

    Args:
        document: The file.
        file: Its path, for errors and for the JSON files next to it.
        metadata: `params.json` or `config.json`.

    Raises:
        TokenizerError: The file contradicts itself; names what.
    """
    config = document["config"]
    ranks, added = tekken_rows(document, file)
    first = len(added)
    ids = {token.text: id for id, token in added.items()}
    bos, eos = ids.get("<s>"), ids.get("</s>")
    pattern = config["pattern"]
    if not isinstance(pattern, str):
        msg = f"{file}: config.pattern: expected a string, got {type(pattern).__name__}"
        raise TokenizerError(msg)
    known = PRE_TOKENIZERS["tekken"]
    named = "tekken" if (pattern,) == known.patterns else None
    ends = end_ids(file.parent, metadata)
    encode = rank_encoder(ranks, PreTokenizer((pattern,), whole_words=True), str(file))
    return BpeTokenizer(
        lambda text: [id + first for id in encode(text)],
        BpeVocabulary(
            tokens={
                rank + first: "".join(map(BYTE_TO_CHAR.__getitem__, token))
                for token, rank in ranks.items()
            },
            added=added,
            rules=TextRules(add_bos=True, pre_tokenizer=named),
            vocab_size=vocab_rows(metadata),
            bos_id=bos,
            eos_id=eos,
            stop_ids=frozenset(id for id in ends if id in added and id != bos),
        ),
    )


def tekken_rows(
    document: Mapping[str, Any], file: Path
) -> tuple[dict[bytes, int], dict[int, AddedToken]]:
    """The tokens of a parsed `tekken.json`.

    Returns:
        Ranks of byte strings, and the control tokens by id; an id is a rank and their number.

    Raises:
        TokenizerError: The file contradicts itself; names what.
    """
    config = document["config"]
    first = _number(config, "default_num_special_tokens", file)
    count = _number(config, "default_vocab_size", file) - first
    ranks = _ranks(document["vocab"], count, file)
    return ranks, _specials(document.get("special_tokens"), first, file)


def _number(config: Mapping[str, object], key: str, file: Path) -> int:
    value = config.get(key)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_ROWS:
        return value
    msg = f"{file}: config.{key}: expected a number of tokens, got {value!r:.40}"
    raise TokenizerError(msg)


def _ranks(rows: object, count: int, file: Path) -> dict[bytes, int]:
    """The tokens in use: a file holds more than the model has rows for."""
    if not isinstance(rows, list) or not 0 < count <= len(rows):
        found = len(rows) if isinstance(rows, list) else type(rows).__name__
        msg = f"{file}: vocab: expected at least {count} tokens, got {found}"
        raise TokenizerError(msg)
    ranks: dict[bytes, int] = {}
    for rank, row in enumerate(rows[:count]):
        try:
            token = base64.b64decode(row["token_bytes"], validate=True)
        except (TypeError, KeyError, ValueError, binascii.Error):
            token = b""
        if not token or token in ranks or row.get("rank") != rank:
            msg = f"{file}: vocab[{rank}]: expected bytes and the rank {rank}, got {row!r:.60}"
            raise TokenizerError(msg)
        ranks[token] = rank
    return ranks


def _specials(listed: object, first: int, file: Path) -> dict[int, AddedToken]:
    """Control tokens by id, all `first` of them."""
    names = dict(enumerate(_SPECIALS))
    if listed is not None:
        names = {}
        for row in listed if isinstance(listed, list) else [listed]:
            rank = row.get("rank") if isinstance(row, dict) else None
            text = row.get("token_str") if isinstance(row, dict) else None
            if not isinstance(rank, int) or not isinstance(text, str) or not 0 <= rank < first:
                msg = f"{file}: special_tokens: expected rank and text, got {row!r:.60}"
                raise TokenizerError(msg)
            names[rank] = text
    return {id: AddedToken(names.get(id, f"<SPECIAL_{id}>"), special=True) for id in range(first)}
