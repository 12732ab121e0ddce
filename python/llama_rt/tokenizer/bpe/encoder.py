"""The encoder of byte-level BPE: words by patterns, then merges in native code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np

from llama_rt import _native
from llama_rt.errors import TokenizerError
from llama_rt.tokenizer.bpe.alphabet import alphabet_bytes
from llama_rt.tokenizer.bpe.pre_tokenizers import PreTokenizer, name_of
from llama_rt.tokenizer.bpe.splitter import Splitter

__all__ = ["bpe_encoder", "merge_rows", "rank_encoder", "split_name"]


def bpe_encoder(
    tokens: Mapping[int, str],
    merges: Iterable[tuple[int, int, int]],
    split: PreTokenizer,
    name: str,
) -> Callable[[str], list[int]]:
    """Makes the encoder of ordinary text from tokens and merges.

    Args:
        tokens: Ordinary tokens by id, in GPT-2's byte alphabet.
        merges: Ids left, right and joined, by rank.
        split: Words, and whether one that is a token is that token.
        name: File, for errors.
    """
    encoder = _native_encoder(tokens, merges, whole_words=split.whole_words)
    return _joined(Splitter(split.patterns, name), encoder)


def rank_encoder(
    ranks: Mapping[bytes, int], split: PreTokenizer, name: str
) -> Callable[[str], list[int]]:
    """Makes the encoder of a vocabulary whose ids are ranks, 0 to n-1 (tiktoken)."""
    listed = sorted(ranks, key=ranks.__getitem__)
    encoder = _native.BytePairEncoder(listed, None, whole_words=True)
    return _joined(Splitter(split.patterns, name), encoder)


def split_name(
    tokens: Mapping[int, str], merges: Iterable[tuple[int, int, int]], split: PreTokenizer
) -> str | None:
    """Name of a split, None if it has none.

    Where merges alone make every token, it is the same whether whole words come first, and has the
    names of both.
    """
    found = name_of(split)
    other = name_of(replace(split, whole_words=not split.whole_words))
    if found is not None or other is None:
        return found
    data = (alphabet_bytes(text) or b"" for text in tokens.values())
    texts = (part.decode("utf-8", "replace") for part in data)
    words = [text for text in texts if "\ufffd" not in text]  # parts of characters are no words
    merged = _native_encoder(tokens, merges, whole_words=False)
    return other if all(len(merged.encode([word])) <= 1 for word in words) else None


def _native_encoder(
    tokens: Mapping[int, str], merges: Iterable[tuple[int, int, int]], *, whole_words: bool
) -> _native.BytePairEncoder:
    size = max(tokens, default=-1) + 1
    rows = np.array(list(merges), np.int32).reshape(-1, 3)
    listed = [alphabet_bytes(tokens.get(id, "")) or b"" for id in range(size)]
    return _native.BytePairEncoder(listed, rows, whole_words=whole_words)


def _joined(splitter: Splitter, encoder: _native.BytePairEncoder) -> Callable[[str], list[int]]:
    return lambda text: encoder.encode(splitter.split(text))


def merge_rows(
    merges: Iterable[tuple[str, str]], vocab: Mapping[str, int], name: str
) -> list[tuple[int, int, int]]:
    """Ids left, right and joined of each merge.

    Raises:
        TokenizerError: A merge does not join two tokens to a third; names `name`.
    """
    rows = []
    for left, right in merges:
        try:
            rows.append((vocab[left], vocab[right], vocab[left + right]))
        except KeyError:
            merge = f"{left} {right}"
            msg = f"{name}: merges: {merge[:60]!r} does not join two tokens to a third"
            raise TokenizerError(msg) from None
    return rows
