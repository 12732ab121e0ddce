"""What every tokenizer of llama_rt can do, and the checks they share; knows no file format."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Sequence
from typing import Protocol

from llama_rt.errors import TokenizerError
from llama_rt.tokenizer.settings import TokenizerSettings

__all__ = ["StreamDecoder", "Tokenizer", "check_ids", "check_text"]


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
        settings: What the model's files say of it: rules for begin and end of text, spaces, added
            tokens, the pre-tokenizer's name.
        vocab_size: Number of ids that the tokenizer knows, padding rows included.
        bos_id: Id that starts a text, or None.
        eos_id: Id that ends a text, or None.
        stop_ids: Ids that end a generation (eos, end of turn, end of message).
        unsampled_ids: Ids that must never be generated (padding rows of the embedding).
        special_ids: Control and added tokens by their text.
    """

    @property
    def settings(self) -> TokenizerSettings: ...  # noqa: D102
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
        self,
        text: str,
        bos: bool | None = None,
        eos: bool | None = None,
        *,
        special: bool = False,
    ) -> list[int]:
        """Turns text into ids.

        Args:
            text: Any str; lone surrogates count as U+FFFD.
            bos: Put the begin-of-text id first, unless it already is first. None is the model's
                own rule (`settings`).
            eos: Put the end-of-text id last, unless it already is last. None is the model's rule.
            special: Read the texts of control and added tokens as those tokens. Off, they are
                ordinary text: what a user wrote never becomes a control token.

        Raises:
            TokenizerError: `text` is not a str.
        """
        ...

    def encode_parts(
        self, parts: Iterable[str | int], bos: bool | None = False, eos: bool | None = False
    ) -> list[int]:
        """Turns a text whose control tokens are known into ids, as one text.

        Adjacent texts are joined. The rules for a whole text hold: a leading space at its start
        only (`settings.prefix_space`), white space that belongs to the tokens beside it.

        Args:
            parts: Ordinary text, from which no control token is read, and ids.
            bos: As in `encode`, but nothing is added unasked.
            eos: The same for the end.

        Raises:
            TokenizerError: A part is neither str nor an id of the vocabulary.
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


def check_text(text: object) -> str:
    """Returns `text` with each lone surrogate replaced by U+FFFD.

    Raises:
        TokenizerError: `text` is not a str.
    """
    if not isinstance(text, str):
        msg = f"text: expected str, got {type(text).__name__}"
        raise TokenizerError(msg)
    try:
        text.encode()  # many times as fast as a search
    except UnicodeEncodeError:
        return _SURROGATES.sub("�", text)
    return text


def check_ids(ids: Iterable[int], vocab_size: int) -> Sequence[int]:
    """Returns `ids` as a list of int in `[0, vocab_size)`.

    Raises:
        TokenizerError: An id has another type or is outside; names its position.
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
