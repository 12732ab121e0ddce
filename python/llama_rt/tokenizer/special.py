"""Special and added tokens: where text is cut at them, and which meaning their texts have."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["AddedToken", "SpecialTokens", "is_padding_text"]

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


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that JSON files add to a vocabulary's own.

    Attributes:
        text: Its text. It is found in ordinary text only if it is not special and looks like a
            word, otherwise only where special tokens are read.
        special: A control token: decodes to nothing.
    """

    text: str
    special: bool


class SpecialTokens:
    """The tokens that text is cut at, longest first; what is between them is ordinary text."""

    def __init__(self, ids: Mapping[str, int], words: Mapping[str, int]) -> None:
        """Builds the cuts; empty texts are ignored.

        Args:
            ids: All such tokens by text.
            words: Those found in ordinary text too, unless they look like control tokens: these
                are never read out of ordinary text, even where a file fails to call them special.
        """
        self.ids = {text: id for text, id in ids.items() if text}
        self._words = {text: id for text, id in words.items() if text and not _is_markup(text)}
        self._at_all, self._at_words = _cuts(self.ids), _cuts(self._words)

    @property
    def end_ids(self) -> set[int]:
        """Ids of those whose text ends a generation."""
        return {id for text, id in self.ids.items() if text in _END_TEXTS}

    def encode(
        self, text: str, ordinary: Callable[[str], list[int]], *, special: bool
    ) -> list[int]:
        """Ids of a text whose ordinary parts, never empty, `ordinary` encodes one by one.

        Args:
            text: Any text.
            ordinary: Encodes a part without special tokens.
            special: Cut at all special tokens, not only at words.
        """
        cuts, table = (self._at_all, self.ids) if special else (self._at_words, self._words)
        ids: list[int] = []
        for index, part in enumerate(cuts.split(text) if cuts else [text]):
            if part:
                ids += [table[part]] if index % 2 else ordinary(part)
        return ids


def _cuts(ids: Mapping[str, int]) -> re.Pattern[str] | None:
    texts = sorted(ids, key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, texts)) + ")") if texts else None


def _is_markup(text: str) -> bool:
    return re.fullmatch(r"<\S+>|\[\S+\]", text) is not None


def is_padding_text(text: str) -> bool:
    """Says whether an added row of this text is padding that no text stands for."""
    return re.fullmatch(r"\[PAD\d*\]|<pad>|<PAD>|<\|pad\|>", text) is not None
