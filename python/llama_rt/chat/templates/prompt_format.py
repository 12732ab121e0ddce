"""What a named prompt format is: pieces of text and special tokens around the messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

__all__ = ["Format", "Mark", "Piece", "Pieces", "Token"]


class Mark(Enum):
    """A piece that is no text."""

    BOS = "bos"
    EOS = "eos"
    SPLIT = "split"  # what follows is tokenised on its own


@dataclass(frozen=True, slots=True)
class Token:
    """A special token by its text, written by the format itself."""

    text: str


# Text may hold {system}, {user}, {input} and {assistant}. Neighbouring texts are one string for the
# tokenizer unless a mark or token stands between them.
Piece = str | Mark | Token
Pieces = tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Format:
    """A prompt format, as the project's training or serving code wrote it.

    A conversation is `begin`, `system_part` (if there is a system text), `opening`, then for each
    turn `user` and `cue`, and `assistant` where an answer is known.

    Attributes:
        name: Name to ask for it by.
        about: One line: whose format, from where.
        user: A user's message.
        cue: What makes the model answer.
        assistant: A known answer, after the cue.
        begin: Start of every prompt.
        system_part: Where the system text goes, None if there is no place for one.
        opening: Fixed text after the system text.
        next_user: User's messages after the first, if they differ.
        with_input: A user's message that brings an `input` of its own (Alpaca).
        next_with_input: The same after the first.
        system: Default system text, "" for none.
        system_with_input: Default system text if the first message has an `input`.
        instruction: What a message without `input` is the input to; "" if it is the instruction.
        fold_system: How the system text becomes part of the first user's message.
        example: Example turn (human, assistant) before the first message.
        strip_user: Characters stripped from user texts (None: white space; "": nothing).
        strip_assistant: The same for answers.
        longest_match: Texts are cut as GPT4All's chat program did (`longest.py`).
        any_order: Messages need not alternate.
        forbidden: Texts no message may contain.
        stop: Strings that end an answer.
        sampling: `SamplingParams` fields as the project's demo had them.
        max_tokens: Longest answer of the demo, None if it had no limit.
    """

    name: str
    about: str
    user: Pieces
    cue: Pieces
    assistant: Pieces
    begin: Pieces = (Mark.BOS,)
    system_part: Pieces | None = None
    opening: Pieces = ()
    next_user: Pieces | None = None
    with_input: Pieces | None = None
    next_with_input: Pieces | None = None
    system: str = ""
    system_with_input: str | None = None
    instruction: str = ""
    fold_system: str | None = None
    example: tuple[str, str] | None = None
    strip_user: str | None = ""
    strip_assistant: str | None = ""
    longest_match: bool = False
    any_order: bool = False
    forbidden: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    sampling: Mapping[str, float] = field(default_factory=dict)
    max_tokens: int | None = None
