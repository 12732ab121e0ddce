"""Taint tracking: of every character of a text, who wrote it.

A template sees the messages as they are. What it makes of them keeps, character by character, the
origin of the text, so that after rendering it is known which texts of control tokens the template
wrote. Operations that `TaintedText` lacks give ordinary text; `derived` then takes the result for
the work of the least trusted of its inputs.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import IntEnum
from typing import Any, SupportsIndex

import markupsafe

__all__ = [
    "FINAL",
    "Origin",
    "TaintedMarkup",
    "TaintedText",
    "derived",
    "format_fields",
    "format_percent",
    "indented",
    "origins_of",
    "tainted",
]

FINAL = 4  # a bit beside the origin: of the message that is to be continued


class Origin(IntEnum):
    """Who wrote a character, the least trusted first."""

    USER = 0
    ASSISTANT = 1
    TEMPLATE = 2


class TaintedText(str):
    """A text that knows the origin of each of its characters.

    Attributes:
        origins: An `Origin` for each character, perhaps with the bit `FINAL`.
    """

    __slots__ = ("origins",)
    origins: bytes

    def __new__(cls, text: str, origins: bytes | int = Origin.USER) -> TaintedText:
        """Makes a text of one origin, or of an origin per character."""
        self = super().__new__(cls, text)
        self.origins = origins if isinstance(origins, bytes) else bytes((origins,)) * len(text)
        return self

    def __str__(self) -> str:
        return self  # so that Jinja's `str` keeps the origins

    def __getitem__(self, key: SupportsIndex | slice) -> TaintedText:
        text = str.__getitem__(self, key)
        part = self.origins[key]
        return TaintedText(text, part if isinstance(part, bytes) else bytes((part,)))

    def __iter__(self) -> Iterator[str]:
        for text, origin in zip(str.__iter__(self), self.origins, strict=True):
            yield TaintedText(text, bytes((origin,)))

    def __add__(self, other: str) -> TaintedText:
        if not isinstance(other, str) or isinstance(other, markupsafe.Markup):
            return NotImplemented
        return TaintedText(str.__add__(self, other), self.origins + origins_of(other))

    def __radd__(self, other: str) -> TaintedText:
        if not isinstance(other, str):
            return NotImplemented
        return TaintedText(str.__add__(other, self), origins_of(other) + self.origins)

    def __mul__(self, times: SupportsIndex) -> TaintedText:
        return TaintedText(str.__mul__(self, times), self.origins * times.__index__())

    __rmul__ = __mul__

    # Texts within this one.

    def lstrip(self, chars: str | None = None, /) -> TaintedText:
        """Without those characters at the beginning."""
        return self[len(self) - len(str.lstrip(self, chars)) :]

    def rstrip(self, chars: str | None = None, /) -> TaintedText:
        """Without those characters at the end."""
        return self[: len(str.rstrip(self, chars))]

    def strip(self, chars: str | None = None, /) -> TaintedText:
        """Without those characters at both ends."""
        return self.lstrip(chars).rstrip(chars)

    def removeprefix(self, prefix: str, /) -> TaintedText:
        """Without a beginning."""
        return self[len(prefix) if self.startswith(prefix) else 0 :]

    def removesuffix(self, suffix: str, /) -> TaintedText:
        """Without an end."""
        return self[: len(self) - len(suffix) * self.endswith(suffix)]

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[Any]:
        """The parts between separators."""
        return self._located(str.split(self, sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[Any]:
        """The parts between separators, counted from the end."""
        return self._located(str.rsplit(self, sep, maxsplit), sep)

    def splitlines(self, keepends: bool = False) -> list[Any]:
        """The lines."""
        lines, at = [], 0
        for line, whole in zip(
            str.splitlines(self, keepends), str.splitlines(self, keepends=True), strict=True
        ):
            lines.append(self[at : at + len(line)])
            at += len(whole)
        return lines

    def partition(self, sep: str, /) -> tuple[Any, Any, Any]:
        """What is before, at and after the first separator."""
        return self._around(str.find(self, sep), len(sep)) or (self, self[:0], self[:0])

    def rpartition(self, sep: str, /) -> tuple[Any, Any, Any]:
        """What is before, at and after the last separator."""
        return self._around(str.rfind(self, sep), len(sep)) or (self[:0], self[:0], self)

    def _around(self, at: int, length: int) -> tuple[Any, Any, Any] | None:
        end = at + length
        return (self[:at], self[at:end], self[end:]) if at >= 0 and length else None

    def _located(self, parts: list[str], sep: str | None) -> list[Any]:
        """Finds consecutive parts; between two is a separator, or white space if it is None."""
        located, at = [], 0
        for part in parts:
            start = str.find(self, part, at) if sep is None else at
            at = start + len(part)
            located.append(self[start:at])
            at += len(sep or "")
        return located

    # Texts made of this one.

    def join(self, parts: Iterable[str], /) -> TaintedText:
        """The parts with this text between them."""
        parts = list(parts)
        text = str.join(self, parts)
        return TaintedText(text, self.origins.join(map(origins_of, parts)))

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> str:
        """With `new` for `old`."""
        if not old:
            return _derived_text(str.replace(self, old, new, count), self, new)
        return tainted(new).join(self.split(old, count))

    def _cased(self, change: Callable[[str], str]) -> str:
        return _derived_text(change(self), self)

    def upper(self) -> str:
        """In upper case."""
        return self._cased(str.upper)

    def lower(self) -> str:
        """In lower case."""
        return self._cased(str.lower)

    def capitalize(self) -> str:
        """With a capital letter first."""
        return self._cased(str.capitalize)


class TaintedMarkup(markupsafe.Markup):
    """Text marked as safe HTML, with origins; whatever is made of it has none: it is the user's."""

    origins: bytes

    def __new__(cls, text: object = "", origins: bytes = b"") -> TaintedMarkup:
        """Makes a text of an origin per character."""
        self = super().__new__(cls, text)
        self.origins = origins or bytes(len(self))
        return self

    def __str__(self) -> str:
        return TaintedText(str.__str__(self), self.origins)


def tainted(text: str) -> TaintedText:
    """Returns a text with its origins; what has none is the template's."""
    return text if isinstance(text, TaintedText) else TaintedText(text, origins_of(text))


def origins_of(text: str) -> bytes:
    """Returns the origin of each character."""
    if isinstance(text, (TaintedText, TaintedMarkup)):
        return text.origins
    # Jinja makes Markup in places that cannot be observed, so nothing is trusted in it.
    return bytes((_plain_origin(text),)) * len(text)


def derived(value: Any, inputs: Iterable[object]) -> Any:  # noqa: ANN401 - any value of a template
    """Gives a text that an operation made the origins of the operation's inputs.

    A text that differs from one of them in case only has the same origins. Otherwise all of it is
    as trusted as the least trusted character of the inputs. Other values return as they are.
    """
    if not isinstance(value, str) or isinstance(value, (TaintedText, TaintedMarkup)):
        return value
    inputs = list(inputs)
    same = (one for one in inputs if isinstance(one, str) and len(one) == len(value))
    like = next((one for one in same if one.casefold() == value.casefold()), None)
    origins = bytes([_weakest(inputs)]) * len(value) if like is None else origins_of(like)
    if isinstance(value, markupsafe.Markup):
        return TaintedMarkup(value, origins)
    return TaintedText(value, origins)


def _derived_text(value: str, *inputs: object) -> str:
    text: str = derived(value, inputs)
    return text


def format_fields(
    format: Callable[[str, tuple[object, ...], Mapping[str, object]], str],
    template: str,
    values: tuple[object, ...],
    named: Mapping[str, object],
) -> str:
    """Computes `str.format`, the origins of each field those of all values.

    Args:
        format: Formats one text; it decides what fields may read.
        template: The text with fields.
        values: Values by position.
        named: Values by name.
    """
    text = format(template, values, named)
    fixed, filled = bytes((_weakest(template),)), bytes((_weakest((values, named)),))
    parts: list[str] = []
    count = 0
    for literal, name, spec, conversion in string.Formatter().parse(template):
        parts.append(TaintedText(literal, fixed * len(literal)))
        if name is None:
            continue
        if name[:1] in ("", ".", "["):
            name, count = f"{count}{name}", count + 1
        field = f"{{{name}{'!' * bool(conversion)}{conversion or ''}{':' * bool(spec)}{spec}}}"
        part = format(field, values, named)
        parts.append(TaintedText(part, filled * len(part)))
    made = TaintedText("", b"").join(parts)
    return made if str.__eq__(made, text) else _derived_text(text, template, values, named)


def format_percent(template: str, values: object) -> str:
    """Computes the operator `%`, the origins of each field those of its value."""
    text = str.__mod__(template, values)
    left = list(values) if isinstance(values, tuple) else [values]
    named = isinstance(values, Mapping)
    whole = tainted(template)
    parts: list[str] = []
    at = 0
    for field in _FIELD.finditer(template):
        parts.append(whole[at : field.start()])
        at = field.end()
        if field[0] == "%%":
            parts.append(whole[at - 1 : at])
        elif named or left:
            value = values if named else left.pop(0)
            parts.append(derived(_formatted(field[0], value, named=named), (value,)))
    made = TaintedText("", b"").join([*parts, whole[at:]])
    return made if str.__eq__(made, text) else _derived_text(text, template, values)


_FIELD = re.compile(r"%(\([^)]*\))?[#0\- +]*\d*(\.\d*)?[a-zA-Z%]")


def _formatted(field: str, value: object, *, named: bool) -> str:
    return str.__mod__(field, value if named else (value,))


def indented(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    """Jinja's filter `indent`, which joins lines with texts of its own."""
    margin = tainted(width if isinstance(width, str) else " " * width)
    lines = tainted(text + "\n").splitlines()
    rest = [margin + line if line or blank else line for line in lines[1:]]
    made = tainted("\n").join([*lines[:1], *rest])
    return margin + made if first else made


def _weakest(value: object) -> int:
    """Returns the least trusted origin within a value, with the bit of any."""
    if isinstance(value, str):
        found = set(origins_of(value))
    elif isinstance(value, Mapping):
        found = {_weakest(part) for pair in value.items() for part in pair}
    elif isinstance(value, (list, tuple, set)) or type(value) in _VIEWS:
        parts: Iterable[object] = value  # type: ignore[assignment]
        found = set(map(_weakest, parts))
    else:
        return Origin.TEMPLATE
    level = min((origin & ~FINAL for origin in found), default=int(Origin.TEMPLATE))
    return level | FINAL * any(origin & FINAL for origin in found)


def _plain_origin(text: str) -> Origin:
    return Origin.USER if isinstance(text, markupsafe.Markup) else Origin.TEMPLATE


_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))
