"""GPT-2's byte alphabet: a printable character for every byte, in which files write tokens."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["BYTE_TO_CHAR", "CHAR_TO_BYTE", "alphabet_bytes", "piece_bytes"]


def _byte_table() -> dict[int, str]:
    """Printable bytes stand for themselves, the others follow from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        if byte not in table:
            table[byte] = chr(256 + len(table) - len(printable))
    return table


BYTE_TO_CHAR: Mapping[int, str] = _byte_table()
CHAR_TO_BYTE: Mapping[str, int] = {char: byte for byte, char in BYTE_TO_CHAR.items()}
# For `str.translate`: the alphabet to Latin-1, what is outside it to what Latin-1 does not have.
_TO_LATIN1 = dict.fromkeys(range(256), "\uffff") | {
    ord(char): chr(byte) for char, byte in CHAR_TO_BYTE.items()
}


def alphabet_bytes(text: str) -> bytes | None:
    """Bytes that a token in the alphabet stands for; None if it is not written in it."""
    try:
        return text.translate(_TO_LATIN1).encode("latin-1")
    except UnicodeEncodeError:
        return None


def piece_bytes(text: str) -> bytes:
    """The same; a token that was never in the alphabet stands for its own text."""
    data = alphabet_bytes(text)
    return text.encode() if data is None else data
