"""Random texts that take tokenizers apart: scripts, spaces, digits, code, emoji, broken words."""

from __future__ import annotations

import random
import unicodedata

__all__ = ["fuzz_text"]

# ruff: noqa: RUF001, SIM905 - such characters are what this is about

_WORDS = """
the Hello world naïve CAFÉ llama McDonald iPhone ΑΒγδ Привет don't I'LL we've they'RE 's 'ſ ’s
日本語 한국어 中文文本 ไทย हिन्दी عربي def f(x): return x+=1; /* c */ </div> https://a.b/c?d=e
__init__ => :: 12345 3.14 1,000,000 0x1F ٣٤٥ Ⅷ ½ ²
🦙 👩\u200d👩\u200d👧 🇩🇪 e\u0301 ǅ ﬁ ß … — “” 。 、 ！
\u200b \ufeff \u00ad � ▁ Ġ <s> [INST] \x00
""".split()
_SPACES = (
    *(" ",) * 12,
    *("", "  ", "    ", "\n", "\n\n", "\r\n", "\t", " \n ", "\u00a0", "\u3000", "\x0b", "\x85"),
)
# Characters of the Unicode that every library here knows; the unassigned are classed by version.
_RANGES = ((0x20, 0x7F), (0xA0, 0x250), (0x370, 0x600), (0x900, 0xE80), (0x1E00, 0x2100),
           (0x2100, 0x2C00), (0x3000, 0x3400), (0x4E00, 0x9FA6), (0xAC00, 0xD7A4),
           (0xF900, 0xFB00), (0xFF00, 0xFFF0), (0x10000, 0x10200), (0x1D400, 0x1D800),
           (0x1F300, 0x1FA00))  # fmt: skip
_CHARACTERS = [
    chr(code)
    for low, high in _RANGES
    for code in range(low, high)
    if unicodedata.category(chr(code)) not in ("Cn", "Co", "Cs")
]


def fuzz_text(rng: random.Random) -> str:
    """One text, mostly short; a tenth of them is characters from everywhere."""
    if rng.random() < 0.1:
        return "".join(rng.choices(_CHARACTERS, k=rng.randrange(1, 60)))
    parts: list[str] = []
    for _ in range(rng.randrange(0, 25)):
        kind = rng.random()
        if kind < 0.8:
            parts.append(rng.choice(_WORDS))
        elif kind < 0.9:
            parts.append(rng.choice(_CHARACTERS) * rng.choice((1, 1, 1, 2, 3, 9)))
        else:
            parts.append("".join(rng.choices("aAbBzZ09 '.-\n", k=rng.randrange(1, 12))))
        parts.append(rng.choice(_SPACES))
    return "".join(parts)
