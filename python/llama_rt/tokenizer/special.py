"""Special and added tokens: where text is cut at them, and which meaning their texts have."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

__all__ = [
    "AddedToken",
    "SpecialTokens",
    "end_texts",
    "is_control_text",
    "is_markup",
    "is_padding_text",
]

# Texts of tokens that end a generation wherever they occur, and are control tokens whatever type a
# file gives them (llama.cpp, src/llama-vocab.cpp: the list of end-of-generation tokens).
_END_TEXTS = frozenset(
    {
        *("</s>", "<eos>", "[EOS]", "<EOT>", "_<EOT>", "[EOT]", "[e~["),
        *("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>"),
        *("<end_of_turn>", "<end_of_utterance>", "<｜end▁of▁sentence｜>", "<turn|>"),  # noqa: RUF001
        *("<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<|tool_response>"),
        # Between files and repositories of code, where a model of code would go on with the next.
        *("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<|file_sep|>"),
        *("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    }
)
# Where all of the first are in a vocabulary, the second ends a part of an answer, not the answer.
_NO_END = (
    ({"<|return|>", "<|call|>"}, "<|end|>"),
    ({"<|calls|>", "<|flush|>"}, "<|end|>"),
    ({"<|call|>", "<|flush|>"}, "<|end|>"),
    ({"<|tool_response>"}, "</s>"),
)
_WORD_CATEGORIES = ("Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "Pc")
_JOINERS = ("\u200c", "\u200d")


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that text is cut at before anything else; defaults are those of `tokenizers`.

    Attributes:
        text: Its text. It is found in ordinary text only if it is not special and looks like a
            word, otherwise only where special tokens are read.
        special: A control token: decodes to nothing.
        lstrip: White space before it belongs to it.
        rstrip: White space after it belongs to it.
        single_word: It is found only where it stands alone, between characters of no word.
        normalized: It is looked for in the normalised text.
    """

    text: str
    special: bool
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


@dataclass(frozen=True, slots=True)
class _Cuts:
    """Tokens to cut at, by the text that is looked for, and the pattern of all, longest first."""

    ids: Mapping[str, int] = field(default_factory=dict)
    pattern: re.Pattern[str] | None = None

    @classmethod
    def of(cls, ids: Mapping[str, int]) -> _Cuts:
        texts = sorted(ids, key=len, reverse=True)
        return cls(ids, re.compile("|".join(map(re.escape, texts))) if texts else None)


class SpecialTokens:
    """The tokens that text is cut at; what is between them is ordinary text."""

    def __init__(
        self,
        tokens: Mapping[int, AddedToken],
        words: Iterable[int] = (),
        normalize: Callable[[str], str] | None = None,
    ) -> None:
        """Builds the cuts; empty texts are ignored.

        Args:
            tokens: All such tokens by id.
            words: Ids of those found in ordinary text too, unless they look like control tokens:
                these are never read out of ordinary text, even where a file fails to call them
                special.
            normalize: What happens to the text between tokens before it is encoded.
        """
        self.tokens = {id: token for id, token in tokens.items() if token.text}
        self.ids = {token.text: id for id, token in self.tokens.items()}
        plain = [id for id in words if id in self.tokens and not is_markup(self.tokens[id].text)]
        self._normalize = normalize
        self._cuts = {True: self._both(self.tokens), False: self._both(plain)}

    def _both(self, ids: Iterable[int]) -> tuple[_Cuts, _Cuts]:
        """Cuts of the text as it is, and of the normalised text."""
        raw: dict[str, int] = {}
        later: dict[str, int] = {}
        for id in ids:
            token = self.tokens[id]
            if self._normalize is not None and token.normalized:
                later[self._normalize(token.text)] = id
            else:
                raw[token.text] = id
        later.pop("", None)
        return _Cuts.of(raw), _Cuts.of(later)

    def cut(self, text: str, *, special: bool) -> list[str | int]:
        """Cuts a text into ids of tokens and normalised ordinary text, none of it empty.

        Args:
            text: Any text.
            special: Cut at all tokens, not only at words.
        """
        raw, later = self._cuts[special]
        parts = self._cut(text, raw)
        if self._normalize is None:
            return parts
        done: list[str | int] = []
        for part in parts:
            done += self._cut(self._normalize(part), later) if isinstance(part, str) else [part]
        return done

    def _cut(self, text: str, cuts: _Cuts) -> list[str | int]:
        if cuts.pattern is None:
            return [text] if text else []
        parts: list[str | int] = []
        done = 0
        for found in cuts.pattern.finditer(text):
            start, end = found.span()
            id = cuts.ids[found[0]]
            token = self.tokens[id]
            if start < done or (token.single_word and not _stands_alone(text, start, end)):
                continue
            while token.lstrip and start > done and text[start - 1].isspace():
                start -= 1
            while token.rstrip and end < len(text) and text[end].isspace():
                end += 1
            if done < start:
                parts.append(text[done:start])
            parts.append(id)
            done = end
        if done < len(text):
            parts.append(text[done:])
        return parts

    def strip_around(self, parts: Iterable[str | int]) -> list[str | int]:
        """Gives to tokens the white space around them that is theirs; joins adjacent texts."""
        done: list[str | int] = []
        for part in parts:
            last = done[-1] if done else None
            if isinstance(part, str):
                token = self.tokens.get(last) if isinstance(last, int) else None
                text = part.lstrip() if token is not None and token.rstrip else part
                if isinstance(last, str):
                    done[-1] = last + text
                elif text:
                    done.append(text)
                continue
            token = self.tokens.get(part)
            if token is not None and token.lstrip and isinstance(last, str):
                done[-1:] = [last.rstrip()] if last.rstrip() else []
            done.append(part)
        return done


def end_texts(texts: Iterable[str]) -> set[str]:
    """Those of a vocabulary's `texts` that end a generation."""
    found = set(_END_TEXTS.intersection(texts))
    return found.difference(text for others, text in _NO_END if others <= found)


def is_control_text(text: str) -> bool:
    """Says whether a token of this text is a control token whatever type a file gives it."""
    return text in _END_TEXTS


def is_padding_text(text: str) -> bool:
    """Says whether an added row of this text is padding that no text stands for."""
    return re.fullmatch(r"\[PAD\d*\]|<pad>|<PAD>|<\|pad\|>", text) is not None


def _stands_alone(text: str, start: int, end: int) -> bool:
    around = text[start - 1 : start] + text[end : end + 1] if start else text[end : end + 1]
    return not any(map(_is_word, around))


def _is_word(char: str) -> bool:
    """A character of a word as Unicode has it (UTS 18), which `str.isalnum` is not."""
    return unicodedata.category(char) in _WORD_CATEGORIES or char in _JOINERS


def is_markup(text: str) -> bool:
    """Says whether a text looks like a token of a format, not like a word."""
    return re.fullmatch(r"<\S+>|\[\S+\]", text) is not None
