"""Allow-lists and limits: what a template may call, and the maximum size that each call can make.

Filters and methods that are not listed do not exist. One that is listed with None makes no more
than a few times what it is given, in time in proportion to it. The others have a function here of
the same arguments, which returns a bound of the bytes they make on the way.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sized

from llama_rt.chat.jinja.resource_budget import ResourceBudget, refuse

__all__ = ["CHARACTER", "FILTERS", "METHODS", "NUMERIC_TESTS", "OF_TEXT", "percent"]

_MAX_DIGITS = 4096  # of a number in a text
_MAX_PLACES = 1000
_MAX_PRODUCT = 1 << 30  # comparisons of a search that may take the product of two lengths
CHARACTER = 4  # bytes at most
_PIECE = 120  # bytes of a list's element with a short text
_PRINTED = 6  # bytes of text from a byte of a value, at most
_WIDTH = 1000  # characters that a field of a format may be widened to
_WIDE = r"[#0\- +]*(\d*\.)?(\d{4,}|\*)"
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"

Bound = Callable[..., int]


def percent(budget: ResourceBudget, text: object, *values: object, **named: object) -> int:
    """Bounds the operator `%` and the filter `format`; refuses wide fields."""
    template = str(text)
    starts = "[%)]" if "%(" in template else "%"
    if re.search(starts + _WIDE, template):
        refuse(f"format string {template[:40]!r}")
    return _fields(budget, template.count("%"), (*values, *named.values()))


def _format(budget: ResourceBudget, text: str, *values: object, **named: object) -> int:
    count = 0
    for _, field, spec, _ in string.Formatter().parse(text):
        budget.step()
        count += field is not None
        if spec and ("{" in spec or re.search(r"\d{4}", spec)):
            refuse(f"format string {text[:40]!r}")
    return _fields(budget, count, (*values, *named.values()))


def _fields(budget: ResourceBudget, count: int, values: tuple[object, ...]) -> int:
    size = sum(map(budget.size_of, values))
    return count * (_WIDTH * CHARACTER + _PRINTED * size)


def _padded(_: ResourceBudget, text: object, width: object = 80, fill: object = " ") -> int:
    del text, fill
    return CHARACTER * _count(width)


def _expanded(_: ResourceBudget, text: str, tabsize: object = 8) -> int:
    return CHARACTER * text.count("\t") * _count(tabsize)


def _indented(
    _: ResourceBudget, s: object, width: object = 4, first: object = False, blank: object = False
) -> int:
    del first, blank
    margin = len(width) if isinstance(width, str) else _count(width)
    return _line_count(str(s)) * (_PIECE + CHARACTER * margin)


def _replaced(_: ResourceBudget, s: object, old: object, new: object, count: object = None) -> int:
    del count
    text = str(s)
    return CHARACTER * (len(text) + text.count(str(old)) * len(str(new)))


def _joined(budget: ResourceBudget, value: object, d: object = "", attribute: object = None) -> int:
    del attribute
    gaps = len(value) if isinstance(value, Sized) else 0
    made = _PRINTED * budget.size_of(value) + CHARACTER * gaps * len(str(d))
    return made + _letters(budget, value)


def _join(budget: ResourceBudget, separator: str, iterable: object) -> int:
    return _joined(budget, iterable, separator)


def _split(_: ResourceBudget, text: str, sep: object = None, maxsplit: object = -1) -> int:
    del maxsplit
    return _PIECE * (text.count(sep) if isinstance(sep, str) and sep else len(text) // 2 + 1)


def _rsplit(budget: ResourceBudget, text: str, sep: object = None, maxsplit: object = -1) -> int:
    return _split(budget, text, sep, maxsplit) + _searched(budget, text, sep)


def _lines(_: ResourceBudget, text: str, keepends: object = False) -> int:
    del keepends
    return _PIECE * _line_count(text)


def _letters(_: ResourceBudget, value: object, *__: object, **___: object) -> int:
    """A list of the value's elements: those of a text are new."""
    return _PIECE * len(value) if isinstance(value, str) else 0


def _words(budget: ResourceBudget, value: object, *_: object, **__: object) -> int:
    """A list of pieces of the value's text."""
    text = str(value)
    _product(text.count("<"), len(text))  # older versions of `striptags` start again at each
    return _letters(budget, text)


def _searched(_: ResourceBudget, text: object, chars: object = None, *__: object) -> int:
    """A search from the end, or for any of some characters, may take the product."""
    if isinstance(chars, str):
        _product(len(str(text)), len(chars))
    return 0


def _batch(_: ResourceBudget, value: object, linecount: object, fill_with: object = None) -> int:
    del value, fill_with
    return _PIECE * _count(linecount)


def _sum(_: ResourceBudget, iterable: object, attribute: object = None, start: object = 0) -> int:
    del iterable, attribute
    return _number(_, start)


def _round(
    _: ResourceBudget, value: object, precision: object = 0, method: object = "common"
) -> int:
    del method
    if _count(precision) > _MAX_PLACES:
        refuse(f"round to {precision} places")
    return _number(_, value)


def _number(_: ResourceBudget, value: object, *__: object) -> int:
    if not isinstance(value, (int, float)):
        refuse(f"a number was expected, got {type(value).__name__}")
    return 0


def _digits(_: ResourceBudget, value: object, *__: object, **___: object) -> int:
    if isinstance(value, str) and len(value) > _MAX_DIGITS:
        refuse(f"a number of {len(value)} characters")
    return 0


def _tojson(
    budget: ResourceBudget,
    value: object,
    ensure_ascii: object = False,
    indent: object = None,
    separators: object = None,
    sort_keys: object = False,
) -> int:
    del ensure_ascii, sort_keys
    margin = len(indent) if isinstance(indent, str) else _count(indent)
    between = sum(map(len, separators)) if isinstance(separators, (list, tuple)) else 2
    size = budget.size_of(value)  # at least 24 bytes for each element
    return _PRINTED * size + size // 24 * CHARACTER * (between + budget.depth(value) * margin)


def _count(value: object) -> int:
    return abs(value) if isinstance(value, int) else 0


def _line_count(text: str) -> int:
    return 1 + sum(map(text.count, _LINE_ENDS))


def _product(first: int, second: int) -> None:
    if first * second > _MAX_PRODUCT:
        refuse(f"a search of {first} by {second} characters")


def _plain(names: str) -> dict[str, Bound | None]:
    return dict.fromkeys(names.split())


FILTERS: Mapping[str, Bound | None] = {
    **_plain("abs attr capitalize count d default dictsort e escape first forceescape items last"),
    **_plain("length lower map reject rejectattr reverse safe select selectattr string"),
    **_plain("truncate upper"),
    **dict.fromkeys(("groupby", "list", "max", "min", "slice", "sort", "unique"), _letters),
    **dict.fromkeys(("title", "wordcount", "urlencode", "striptags"), _words),
    **dict.fromkeys(("int", "float"), _digits),
    "batch": _batch,
    "center": _padded,
    "format": percent,
    "indent": _indented,
    "join": _joined,
    "replace": _replaced,
    "round": _round,
    "sum": _sum,
    "tojson": _tojson,
    "trim": _searched,
}
# Filters that make a text of whatever they are given.
OF_TEXT = frozenset(
    {
        *_plain("capitalize center e escape forceescape format indent lower replace string"),
        *_plain("striptags title trim truncate upper urlencode wordcount"),
    }
)
_TEXT: Mapping[str, Bound | None] = {
    **_plain("capitalize casefold count endswith find index isalnum isalpha isascii isdecimal"),
    **_plain("isdigit isidentifier islower isnumeric isprintable isspace istitle isupper lower"),
    **_plain("partition removeprefix removesuffix startswith swapcase title upper"),
    **dict.fromkeys(("center", "ljust", "rjust", "zfill"), _padded),
    **dict.fromkeys(("lstrip", "rstrip", "strip", "rfind", "rindex", "rpartition"), _searched),
    **dict.fromkeys(("format", "format_map"), _format),
    "expandtabs": _expanded,
    "join": _join,
    "replace": _replaced,
    "rsplit": _rsplit,
    "split": _split,
    "splitlines": _lines,
}
METHODS: Mapping[type, Mapping[str, Bound | None]] = {
    str: _TEXT,
    list: _plain("copy count index"),
    tuple: _plain("count index"),
    dict: _plain("copy get items keys values"),
}
# Of a text, these would be the operator `%`.
NUMERIC_TESTS: Mapping[str, Bound] = dict.fromkeys(("odd", "even", "divisibleby"), _number)
