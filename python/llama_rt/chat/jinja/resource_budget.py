"""The resource budget of one rendering: steps, seconds and bytes.

Python's own functions cannot be interrupted. So every value is measured when it is made: its bytes
with everything in it, counted as often as it is held. No function is then called with a value that
takes long to print, compare or hash, however it was put together.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

from jinja2.exceptions import SecurityError

from llama_rt.chat.jinja.taint import TaintedText

__all__ = ["MAX_BYTES", "MAX_TOTAL", "ResourceBudget", "Rounds", "Steps", "refuse"]

MAX_TOTAL = 1 << 27  # bytes of everything that is made on the way
MAX_BYTES = 1 << 24  # of any value, with all that it holds
_MAX_DEPTH = 100  # of lists within lists
_MAX_STEPS = 1_000_000  # loop rounds, calls, filters, attributes of one rendering
_MAX_SECONDS = 5.0
_MAX_INTEGER_BITS = 4096
_LARGE = 1024  # bytes; what is smaller is measured again wherever it appears
_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))


class ResourceBudget:
    """Counts what a rendering uses and ends it beyond the limits."""

    def __init__(self) -> None:
        self._steps = 0
        self._spent = 0
        self._deadline = time.monotonic() + _MAX_SECONDS
        # Size and depth of large values, by identity: nothing that a template can reach changes,
        # and a value that is kept here keeps its identity.
        self._known: dict[int, tuple[object, int, int]] = {}

    def step(self) -> None:
        """Counts one round, call or filter."""
        self._steps += 1
        if self._steps > _MAX_STEPS or time.monotonic() > self._deadline:
            refuse(f"more than {_MAX_STEPS} steps or {_MAX_SECONDS:g} seconds")

    def forget(self) -> None:
        """Lets go of every value, at the end."""
        self._known.clear()

    def made(self, value: Any) -> Any:  # noqa: ANN401 - any value of a template
        """Returns `value`, a new one, unless it or everything so far is too large."""
        size = self.size_of(value)
        if id(value) not in self._known:
            self._spend(size)
        return value

    def size_of(self, value: object) -> int:
        """Returns the bytes of `value`, what it holds counted each time it is held."""
        return self._size_and_depth(value)[0]

    def depth(self, value: object) -> int:
        """Returns how deep lists lie within lists in `value`, 0 for what holds nothing."""
        return self._size_and_depth(value)[1]

    def _size_and_depth(self, value: object) -> tuple[int, int]:
        known = self._known.get(id(value))
        if known is not None:
            return known[1], known[2]
        parts = _parts(value)
        size, new = _own_size(value), sys.getsizeof(value)
        depth = 0
        for part in parts:
            part_size, below = self._size_and_depth(part)
            size += part_size
            new += 0 if id(part) in self._known else part_size
            depth = max(depth, below + 1)
            if size > MAX_BYTES or depth > _MAX_DEPTH:
                break
        if size > MAX_BYTES:
            refuse(f"a text or list of more than {MAX_BYTES} bytes")
        if depth > _MAX_DEPTH:
            refuse(f"lists nested more than {_MAX_DEPTH} deep")
        if size >= _LARGE:
            self._spend(new)
            self._known[id(value)] = value, size, depth
        return size, depth

    def _spend(self, size: int) -> None:
        self._spent += size
        if self._spent > MAX_TOTAL:
            refuse(f"texts and lists of more than {MAX_TOTAL} bytes altogether")


class Steps:
    """An iterator whose items are counted and measured as they come."""

    def __init__(self, budget: ResourceBudget, inner: Iterable[object]) -> None:
        self._budget = budget
        self._items = iter(inner)

    def __iter__(self) -> Iterator[object]:
        return self

    def __next__(self) -> object:
        self._budget.step()
        return self._budget.made(next(self._items))


class Rounds(Steps):
    """What a loop runs over: its items were measured before, and their number may be asked for."""

    def __init__(self, budget: ResourceBudget, inner: Iterable[object]) -> None:
        super().__init__(budget, inner)
        self._inner = inner

    def __next__(self) -> object:
        self._budget.step()
        return next(self._items)

    def __len__(self) -> int:
        if isinstance(self._inner, Sized):
            return len(self._inner)
        msg = "the number of rounds is not known"
        raise TypeError(msg)  # the loop counts them itself


def refuse(message: str) -> None:
    """Ends the rendering.

    Raises:
        SecurityError: Always.
    """
    raise SecurityError(message)


def _parts(value: object) -> Iterable[object]:
    if isinstance(value, str):
        return ()
    if isinstance(value, (list, tuple, set)):
        return value
    mapping = getattr(value, "mapping", None) if isinstance(value, _VIEWS) else value
    if isinstance(mapping, Mapping):
        return itertools.chain(mapping, mapping.values())
    return ()


def _own_size(value: object) -> int:
    """Returns the bytes of `value` alone, at least a sixth of what it takes printed."""
    if isinstance(value, range):
        return len(value) * (8 + max(map(sys.getsizeof, (value.start, value.stop))))
    if isinstance(value, int) and value.bit_length() > _MAX_INTEGER_BITS:
        refuse(f"a number of more than {_MAX_INTEGER_BITS} bits")
    if isinstance(value, TaintedText):
        return sys.getsizeof(value) + len(value)
    if value is None or isinstance(value, (str, int, float, list, tuple, dict, set, *_VIEWS)):
        return sys.getsizeof(value)
    return 64 + len(repr(value))
