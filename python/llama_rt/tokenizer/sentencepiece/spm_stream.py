"""Decoding ids of a sentencepiece vocabulary as they come, exactly as sentencepiece decodes all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llama_rt.tokenizer.protocol import check_ids
from llama_rt.tokenizer.sentencepiece.spm_model import PieceKind

__all__ = ["SpmDecoder", "SpmSurfaces"]

_REPLACEMENT = "�"
_CONTINUATION = range(0x80, 0xC0)


@dataclass(frozen=True, slots=True)
class SpmSurfaces:
    """What each id shows, parallel by id.

    Attributes:
        kinds: `PieceKind` of each id.
        texts: Shown text with `▁` turned into spaces; "" for control pieces; the unknown piece's
            surface; one character of code point 0 to 255 for a byte piece.
        strips: The rules drop a leading space at the start (dummy prefix, or extra spaces removed).
        strips_again: Every leading piece loses one (extra spaces removed).
    """

    kinds: Sequence[int]
    texts: Sequence[str]
    strips: bool
    strips_again: bool


class SpmDecoder:
    """Follows `SentencePieceProcessor::Decode`, one id at a time.

    Runs of byte pieces are read as UTF-8, every byte that belongs to no character giving U+FFFD; a
    character is held back until its last byte is here. The first visible piece loses its leading
    space.
    """

    __slots__ = ("_any", "_at_start", "_bytes", "_skip", "_stripped", "_surfaces")

    def __init__(self, surfaces: SpmSurfaces, prompt_ids: Iterable[int] = ()) -> None:
        """Starts after `prompt_ids`, whose text is not returned."""
        self._surfaces = surfaces
        self._bytes = bytearray()
        self._any = False  # something visible was emitted
        self._at_start = True  # a leading space is still to be dropped
        self._stripped = False  # the piece before was one whose leading space was dropped
        self._skip = 0  # held bytes that belong to the prompt
        self.push(prompt_ids)
        self._skip = len(self._bytes)

    def push(self, ids: Iterable[int]) -> str:
        """Takes the next ids; returns the text that is certain now."""
        out: list[str] = []
        kinds, texts = self._surfaces.kinds, self._surfaces.texts
        for id in check_ids(ids, len(kinds)):
            if kinds[id] == PieceKind.BYTE:
                self._bytes.append(ord(texts[id]))
                self._any = True
                continue
            if self._bytes:
                self._drain(out, final=True)
            if self._at_start and (self._any or self._stripped):
                self._at_start = False
            text = texts[id]
            self._stripped = False
            plain = kinds[id] not in (PieceKind.CONTROL, PieceKind.UNKNOWN)
            if plain and self._at_start and self._surfaces.strips and text.startswith(" "):
                text = text[1:]
                self._stripped = not self._surfaces.strips_again
            self._any = self._any or bool(text)
            out.append(text)
        if self._bytes:
            self._drain(out, final=False)
        return "".join(out)

    def finish(self) -> str:
        """Returns what was held back, as U+FFFD."""
        out: list[str] = []
        self._drain(out, final=True)
        return "".join(out)

    def _drain(self, out: list[str], *, final: bool) -> None:
        """Moves whole characters (and bytes that can start none) from the held bytes to `out`."""
        held, at = self._bytes, 0
        while at < len(held):
            width = _width(held[at])
            char = bytes(held[at : at + width])
            if len(char) < width and not final and all(b in _CONTINUATION for b in char[1:]):
                break
            try:
                out.append(char.decode())
            except UnicodeDecodeError:
                width = 1
                if at >= self._skip:  # else it already stood at the end of the prompt's text
                    out.append(_REPLACEMENT)
            at += width
        del held[:at]
        self._skip = max(0, self._skip - at)


def _width(lead: int) -> int:
    """Number of bytes of the UTF-8 character that starts with `lead` (1 if none can)."""
    if lead < 0xC0:
        return 1
    if lead < 0xE0:
        return 2
    if lead < 0xF0:
        return 3
    return 4 if lead < 0xF8 else 1
