"""Meta's own file of Llama 3: lines of base64 bytes and rank, special tokens known by version."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path

from llama_rt.errors import TokenizerError
from llama_rt.tokenizer.bpe.alphabet import BYTE_TO_CHAR
from llama_rt.tokenizer.bpe.bpe import BpeTokenizer, BpeVocabulary
from llama_rt.tokenizer.bpe.encoder import rank_encoder
from llama_rt.tokenizer.bpe.pre_tokenizers import PRE_TOKENIZERS
from llama_rt.tokenizer.folder_tokens import end_ids, vocab_rows
from llama_rt.tokenizer.settings import TextRules
from llama_rt.tokenizer.special import AddedToken

__all__ = ["special_texts", "tokenizer_from_ranks"]

_SPECIALS = 256
_EOM = 8  # offset of <|eom_id|> among the special tokens of 3.1 and later


def tokenizer_from_ranks(
    data: bytes, file: Path, metadata: Mapping[str, object] | None
) -> BpeTokenizer:
    """Builds the tokenizer from Meta's `tokenizer.model` of Llama 3.

    Llama 3.1 and later gave names to reserved tokens; they are told from 3.0 by their scaled rope
    (`params.json`, `config.json`) or by `<|eom_id|>` among the end ids.

    Args:
        data: The file's bytes.
        file: Its path, for errors and for the JSON files next to it.
        metadata: `params.json` or `config.json`.

    Raises:
        TokenizerError: A line is malformed or the ranks are not 0 to n-1.
    """
    ranks = parse_ranks(data, file)
    count = len(ranks)
    words = {token: "".join(map(BYTE_TO_CHAR.__getitem__, token)) for token in ranks}
    ends = end_ids(file.parent, metadata)
    specials = special_texts(newer=uses_scaled_rope(metadata) or count + _EOM in ends)
    added = {count + offset: AddedToken(text, special=True) for offset, text in enumerate(specials)}
    return BpeTokenizer(
        rank_encoder(ranks, PRE_TOKENIZERS["llama-bpe"], str(file)),
        BpeVocabulary(
            tokens={rank: words[token] for token, rank in ranks.items()},
            added=added,
            rules=TextRules(add_bos=True, pre_tokenizer="llama-bpe"),
            vocab_size=vocab_rows(metadata),
            bos_id=count,
            eos_id=count + 1,
            stop_ids=frozenset(id for id in ends if id in added),
        ),
    )


def special_texts(*, newer: bool) -> list[str]:
    """Lists the 256 special tokens of Llama 3 or, if `newer`, of 3.1 and later.

    Sources: meta-llama/llama3 `llama/tokenizer.py`; llama-models `models/llama3/tokenizer.py`.
    """
    first = ["begin_of_text", "end_of_text", "reserved_special_token_0", "reserved_special_token_1"]
    if newer:
        first += ["finetune_right_pad_id", "step_id", "start_header_id", "end_header_id"]
        first += ["eom_id", "eot_id", "python_tag", "image"]
        reserved = 2
    else:
        first += ["reserved_special_token_2", "reserved_special_token_3"]
        first += ["start_header_id", "end_header_id", "reserved_special_token_4", "eot_id"]
        reserved = 5
    rest = range(reserved, reserved + _SPECIALS - len(first))
    names = first + [f"reserved_special_token_{number}" for number in rest]
    return [f"<|{name}|>" for name in names]


def parse_ranks(data: bytes, file: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        if not line:
            continue
        try:
            encoded, rank = line.split()
            ranks[base64.b64decode(encoded, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            msg = f"{file}: line {number}: expected '<base64> <rank>', got {line[:60]!r}"
            raise TokenizerError(msg) from None
    if sorted(ranks.values()) != list(range(len(ranks))) or b"" in ranks:
        msg = f"{file}: the ranks of its {len(ranks)} tokens are not 0 to {len(ranks) - 1}"
        raise TokenizerError(msg)
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        msg = f"{file}: {len(missing)} single bytes have no token, the first is {missing[0]:#04x}"
        raise TokenizerError(msg)
    return ranks


def rank_merges(ranks: Mapping[bytes, int], words: Mapping[bytes, str]) -> list[tuple[str, str]]:
    """Pairs in order of the joined token's rank: every way to cut a token in two tokens."""
    merges: list[tuple[str, str]] = []
    for token in sorted(ranks, key=ranks.__getitem__):
        cuts = [
            (ranks[token[:at]], ranks[token[at:]], at)
            for at in range(1, len(token))
            if token[:at] in ranks and token[at:] in ranks
        ]
        merges += [(words[token[:at]], words[token[at:]]) for _, _, at in sorted(cuts)]
    return merges


def uses_scaled_rope(metadata: Mapping[str, object] | None) -> bool:
    metadata = metadata or {}
    if metadata.get("use_scaled_rope"):
        return True
    for key in ("rope_scaling", "rope_parameters"):
        rules = metadata.get(key)
        if isinstance(rules, Mapping) and "llama3" in (rules.get("rope_type"), rules.get("type")):
            return True
    return False
