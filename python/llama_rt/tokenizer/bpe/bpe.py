"""Tokenizer of Llama 3 and later: byte-level BPE."""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

from llama_rt.tokenizer.base import TokenizerBase
from llama_rt.tokenizer.bpe.alphabet import piece_bytes
from llama_rt.tokenizer.protocol import check_ids
from llama_rt.tokenizer.settings import TextRules
from llama_rt.tokenizer.special import AddedToken, SpecialTokens, end_texts, is_padding_text

__all__ = ["BpeDecoder", "BpeTokenizer", "BpeVocabulary"]


@dataclass(frozen=True, kw_only=True)
class BpeVocabulary:
    """What the ids stand for, apart from how text is encoded.

    Attributes:
        tokens: Ordinary tokens by id, in GPT-2's byte alphabet.
        added: Control and added tokens by id.
        rules: Begin and end of a text, Unicode form, the pre-tokenizer's name.
        vocab_size: Rows of the model's embedding; rows without a token are padding.
        bos_id: Id that starts a text, or None.
        eos_id: Id that ends a text, or None.
        stop_ids: Ids that end a generation in addition to eos.
        unsampled_ids: Ids suppressed in sampling in addition to the padding rows.
    """

    tokens: Mapping[int, str]
    added: Mapping[int, AddedToken]
    rules: TextRules
    vocab_size: int = 0
    bos_id: int | None = None
    eos_id: int | None = None
    stop_ids: frozenset[int] = frozenset()
    unsampled_ids: frozenset[int] = frozenset()


class BpeTokenizer(TokenizerBase):
    """Byte-level BPE as Meta's own encoder and decoder work (no clean-up of spaces)."""

    def __init__(self, encode: Callable[[str], list[int]], vocabulary: BpeVocabulary) -> None:
        """Joins an encoder of ordinary text to its vocabulary."""
        words = vocabulary
        self._encode = encode
        last = max([-1, *words.tokens, *words.added])
        size = max(last + 1, words.vocab_size)
        self._bytes: list[bytes | None] = [None] * size  # None: control or padding
        self._names = [f"[PAD{id}]" for id in range(size)]
        for id, text in words.tokens.items():
            self._bytes[id] = piece_bytes(text)
        for id, token in words.added.items():
            self._bytes[id] = None if token.special else token.text.encode()
            self._names[id] = token.text
        plain = [id for id, token in words.added.items() if not token.special]
        special = SpecialTokens(words.added, plain, _normalizer(words.rules.normalization))
        ends = {special.ids[text] for text in end_texts(special.ids)} | words.stop_ids
        ends |= {words.eos_id} if words.eos_id is not None else set()
        settings = words.rules.settings(
            bos_id=words.bos_id,
            eos_id=words.eos_id,
            added_tokens=words.added,
            byte_fallback=False,
            end_ids=frozenset(ends),
        )
        known = words.tokens.keys() | words.added.keys()
        suppressed = set(range(size)) - known | words.unsampled_ids
        suppressed |= {id for id, token in words.added.items() if is_padding_text(token.text)}
        super().__init__(
            settings,
            special,
            vocab_size=size,
            unsampled_ids=frozenset(suppressed - settings.end_ids - {words.bos_id}),
        )

    def _encode_text(self, text: str, *, first: bool) -> list[int]:
        scheme = self.settings.prefix_space
        if scheme == "always" or (scheme == "first" and first):
            text = text if text.startswith(" ") else " " + text
        return self._encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """See `Tokenizer.decode`."""
        decoder = self.decoder()
        return decoder.push(ids) + decoder.finish()

    def decoder(self, prompt_ids: Iterable[int] = ()) -> BpeDecoder:
        """See `Tokenizer.decoder`."""
        return BpeDecoder(self._bytes, prompt_ids)

    def piece(self, id: int) -> str:
        """See `Tokenizer.piece`."""
        (id,) = check_ids([id], self.vocab_size)
        data = self._bytes[id]
        if data is None:
            return self._names[id]
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "".join(f"<0x{byte:02X}>" for byte in data)


class BpeDecoder:
    """Joins the tokens' bytes and reads them as UTF-8, holding back what is no character yet.

    Ill-formed bytes become U+FFFD as in Python's `errors="replace"`.
    """

    __slots__ = ("_bytes", "_prompt_tail", "_size", "_utf8")

    def __init__(self, token_bytes: Sequence[bytes | None], prompt_ids: Iterable[int] = ()) -> None:
        """Starts after `prompt_ids`, whose text is not returned."""
        self._bytes = token_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._prompt_tail = False
        self.push(prompt_ids)
        # A prompt that ends within a character shows it as one U+FFFD already.
        self._prompt_tail = bool(self._utf8.getstate()[0])

    def push(self, ids: Iterable[int]) -> str:
        """Takes the next ids; returns the text that is certain now."""
        out: list[str] = []
        for id in check_ids(ids, len(self._bytes)):
            data = self._bytes[id]
            out.append(self._utf8.decode(data or b"", final=data is None))
        return self._without_tail("".join(out))

    def finish(self) -> str:
        """Returns what was held back, as U+FFFD."""
        return self._without_tail(self._utf8.decode(b"", final=True))

    def _without_tail(self, text: str) -> str:
        if not (text and self._prompt_tail):
            return text
        self._prompt_tail = False
        return text.removeprefix("�")


def _normalizer(form: str) -> Callable[[str], str] | None:
    if not form:
        return None
    return partial(unicodedata.normalize, cast("Literal['NFC', 'NFD', 'NFKC', 'NFKD']", form))
