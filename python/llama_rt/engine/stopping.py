"""Stop conditions: what a caller may ask for, and finding stop strings in a stream of text."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping

from llama_rt.errors import ConfigError

__all__ = ["StopMatcher", "named_ids", "parse_stop"]


def parse_stop(stop: object) -> tuple[tuple[str, ...], frozenset[int]]:
    """Sorts a caller's `stop` into strings and token ids.

    Args:
        stop: A string, an id, or any number of both.

    Raises:
        ConfigError: A string is empty or an id is negative.
        TypeError: It is neither.
    """
    if stop is None:
        return (), frozenset()
    items = [stop] if isinstance(stop, str) or hasattr(stop, "__index__") else stop
    if not isinstance(items, Iterable) or isinstance(items, bytes):
        msg = f"stop: expected strings or token ids, got {type(stop).__name__}"
        raise TypeError(msg)
    strings: list[str] = []
    ids: set[int] = set()
    for item in items:
        if isinstance(item, str):
            if not item:
                msg = "stop: an empty string would stop at once; leave it out"
                raise ConfigError(msg)
            strings.append(item)
        else:
            ids.add(_token_id(item))
    return tuple(dict.fromkeys(strings)), frozenset(ids)


def _token_id(item: object) -> int:
    try:
        token = operator.index(item)  # type: ignore[arg-type]
    except TypeError:
        token = None
    if token is None or isinstance(item, bool):
        msg = f"stop: expected a string or a token id, got {type(item).__name__}"
        raise TypeError(msg)
    if token < 0:
        msg = f"stop: token id {token} is negative"
        raise ConfigError(msg)
    return token


def named_ids(strings: Iterable[str], special_ids: Mapping[str, int]) -> dict[int, str]:
    """Control and added tokens whose text is a stop string: it is not in the decoded text."""
    return {special_ids[text]: text for text in strings if text in special_ids}


class StopMatcher:
    """Finds the first stop string to be complete in text that comes in pieces.

    How the text is cut into pieces never changes the result. Text that may be the beginning of a
    stop string is held back until it is certain.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        """Looks for `strings`; none of them is empty."""
        self._strings = tuple(strings)
        self._held = ""
        self.found = False
        self.string = ""

    def push(self, text: str) -> str:
        """Takes the next piece; returns what is certain now. Sets `found` and `string` at one."""
        if not self._strings or self.found:
            return "" if self.found else text
        text = self._held + text
        ends = [(at + len(s), at, s) for s in self._strings if (at := text.find(s)) >= 0]
        if ends:
            # The one complete first; of those that end together, the longest.
            _, at, self.string = min(ends)
            self.found = True
            self._held = ""
            return text[:at]
        keep = max(_overlap(text, s) for s in self._strings)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """Returns what was held back: nothing more comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, string: str) -> int:
    """Length of the longest end of `text` that is a beginning of `string`, but not all of it."""
    for length in range(min(len(text), len(string) - 1), 0, -1):
        if text.endswith(string[:length]):
            return length
    return 0
