"""What every tokenizer of llama_rt can do, and the checks they share; knows no file format."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Sequence
from typing import Protocol

from llama_rt.errors import TokenizerError

__all__ = ["SpecialTokens", "StreamDecoder", "Tokenizer", "check_ids", "check_text", "is_end_text"]

# Texts of control tokens that end a generation wherever they occur (llama.cpp's list, as far as it
# concerns this family and what is built on it).
_END_TEXTS = frozenset(
    {
        "</s>",
        "<EOT>",
        "<end_of_turn>",
        "<|end_of_text|>",
        "<|endoftext|>",
        "<|eom_id|>",
        "<|eot_id|>",
        "<|im_end|>",
    }
)

_SURROGATES = re.compile("[\ud800-\udfff]")


class StreamDecoder(Protocol):
    """Turns ids into text as they come, a whole number of characters at a time."""

    def push(self, ids: Iterable[int]) -> str:
        """Takes the next ids and returns the text that is certain now (may be empty)."""
        ...

    def finish(self) -> str:
        """Returns what was held back; bytes that form no character come out as U+FFFD."""
        ...


class Tokenizer(Protocol):
    """Text to ids and back, exactly as the model was trained.

    Attributes:
        vocab_size: Number of ids that the tokenizer knows, padding rows included.
        bos_id: Id that starts a text, or None.
        eos_id: Id that ends a text, or None.
        stop_ids: Ids that end a generation (eos, end of turn, end of message).
        unsampled_ids: Ids that must never be generated (padding rows of the embedding).
        special_ids: Control and added tokens by their text.
    """

    @property
    def vocab_size(self) -> int: ...  # noqa: D102
    @property
    def bos_id(self) -> int | None: ...  # noqa: D102
    @property
    def eos_id(self) -> int | None: ...  # noqa: D102
    @property
    def stop_ids(self) -> frozenset[int]: ...  # noqa: D102
    @property
    def unsampled_ids(self) -> frozenset[int]: ...  # noqa: D102
    @property
    def special_ids(self) -> dict[str, int]: ...  # noqa: D102

    def encode(
        self, text: str, bos: bool = True, eos: bool = False, *, special: bool = False
    ) -> list[int]:
        """Turns text into ids.

        Args:
            text: Any str; lone surrogates count as U+FFFD.
            bos: Put the begin-of-text id first, unless it already is first.
            eos: Put the end-of-text id last, unless it already is last.
            special: Read the texts of control and added tokens as those tokens. Off, they are
                ordinary text: what a user wrote never becomes a control token.

        Raises:
            TokenizerError: `text` is not a str.
        """
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Turns ids into text; control tokens vanish.

        Raises:
            TokenizerError: An id is not an int in `[0, vocab_size)`.
        """
        ...

    def decoder(self, prompt_ids: Iterable[int] = ()) -> StreamDecoder:
        """Starts decoding after `prompt_ids`, whose own text is not repeated.

        All pushes and `finish` together give `decode(prompt_ids + ids)` without its beginning
        `decode(prompt_ids)`; should the prompt end within a character, that character comes whole.
        """
        ...

    def piece(self, id: int) -> str:
        """Text of one token for display: its name if it is a control token, `<0xAB>` for a byte."""
        ...


class SpecialTokens:
    """Splits text at the texts of special tokens, longest first."""

    ids: dict[str, int]

    def __init__(self, ids: dict[str, int]) -> None:
        """Keeps `ids`, a map of token text to id; empty texts are ignored."""
        self.ids = {text: id for text, id in ids.items() if text}
        texts = sorted(self.ids, key=len, reverse=True)
        self._pattern = re.compile("(" + "|".join(map(re.escape, texts)) + ")") if texts else None

    def split(self, text: str) -> Iterable[str | int]:
        """Yields str for ordinary text (never empty) and int for a special token."""
        parts = self._pattern.split(text) if self._pattern else [text]
        for index, part in enumerate(parts):
            if part:
                yield self.ids[part] if index % 2 else part


def frame(ids: list[int], bos_id: int | None, eos_id: int | None) -> list[int]:
    """Adds begin and end ids (None: not wanted) where they are not there already."""
    if bos_id is not None and ids[:1] != [bos_id]:
        ids = [bos_id, *ids]
    if eos_id is not None and ids[-1:] != [eos_id]:
        ids = [*ids, eos_id]
    return ids


def check_text(text: object) -> str:
    """Returns `text` with each lone surrogate replaced by U+FFFD.

    Raises:
        TokenizerError: `text` is not a str.
    """
    if not isinstance(text, str):
        msg = f"text: expected str, got {type(text).__name__}"
        raise TokenizerError(msg)
    return text if text.isascii() else _SURROGATES.sub("�", text)


def check_ids(ids: Iterable[int], vocab_size: int) -> Sequence[int]:
    """Returns `ids` as a list of int in `[0, vocab_size)`.

    Raises:
        TokenizerError: An id has another type or lies outside; names its position.
    """
    try:
        result = [operator.index(id) for id in ids]
    except TypeError as error:
        msg = f"ids: expected a sequence of int, got {type(ids).__name__} ({error})"
        raise TokenizerError(msg) from None
    if result and (min(result) < 0 or max(result) >= vocab_size):
        at = next(i for i, id in enumerate(result) if not 0 <= id < vocab_size)
        msg = f"ids[{at}]: {result[at]} is not in the vocabulary (0 to {vocab_size - 1})"
        raise TokenizerError(msg)
    return result


def is_end_text(text: str) -> bool:
    """Says whether a control token of this text ends a generation."""
    return text in _END_TEXTS


def is_markup(text: str) -> bool:
    """Says whether an added token looks like a control token rather than like a word.

    Such tokens are never read out of ordinary text, even where a file fails to call them special.
    """
    return re.fullmatch(r"<\S+>|\[\S+\]", text) is not None


def is_padding_text(text: str) -> bool:
    """Says whether an added row of this text is padding that no text stands for."""
    return re.fullmatch(r"\[PAD\d*\]|<pad>|<PAD>|<\|pad\|>", text) is not None
