"""Typed look-ups in one file's keys; every failure names the file, the key and what came."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from llama_rt.config.model_config import MAX_SIZE
from llama_rt.errors import ConfigError


class Keys:
    """Typed look-ups in one file's keys, each failure naming file and key."""

    def __init__(self, values: Mapping[str, object], source: Path | str) -> None:
        self._values = values
        self.source = source

    def refuse(self, key: str, problem: str) -> NoReturn:
        """Raises a ConfigError about one key."""
        msg = f"{self.source}: key {key!r} {problem}"
        raise ConfigError(msg)

    def get(self, *names: str) -> object:
        """The first of `names` that is there and not null."""
        for name in names:
            value = self._values.get(name)
            if value is not None:
                return value
        return None

    def integer(self, key: str, default: int | None = None) -> int:
        """An integer, or `default`; without a default the key must be there."""
        value = self.get(key)
        if value is None:
            if default is None:
                self.refuse(key, "is missing; an integer was expected")
            return default
        if isinstance(value, float) and value.is_integer() and abs(value) <= MAX_SIZE:
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self.refuse(key, f"must be an integer, not {shown(value)}")
        if abs(value) >= 2**63:
            self.refuse(key, f"is {shown(value)}, beyond any size")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number, or `default`; without a default the key must be there."""
        value = self.get(key)
        if value is None:
            if default is None:
                self.refuse(key, "is missing; a number was expected")
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self.refuse(key, f"must be a number, not {shown(value)}")
        try:
            return float(value)
        except OverflowError:
            self.refuse(key, "is too large for a number")

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of numbers, each above zero."""
        value = self.get(key)
        if not isinstance(value, list) or not all(
            isinstance(item, (int, float)) and not isinstance(item, bool) for item in value
        ):
            self.refuse(key, f"must be a list of numbers, not {shown(value)}")
        for item in value:
            self.positive(key, item)
        return tuple(map(float, value))

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Puts the file's name before what a configuration says against its own numbers."""
        try:
            yield
        except ConfigError as error:
            if str(error).startswith(str(self.source)):
                raise
            msg = f"{self.source}: {error}"
            raise ConfigError(msg) from None

    def positive(self, key: str, value: float) -> None:
        """Refuses a number that is not finite and above zero."""
        if not (math.isfinite(value) and value > 0):
            self.refuse(key, f"must be a number > 0, not {value}")

    def flag(self, key: str, *, default: bool = False) -> bool:
        """The bool under a key, or `default`."""
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.refuse(key, f"must be true or false, not {shown(value)}")
        return value

    def text(self, key: str, default: str = "") -> str:
        """The string under a key, or `default`."""
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            self.refuse(key, f"must be a string, not {shown(value)}")
        return value


def shown(value: object) -> str:
    """A value for a message: short whatever the file holds."""
    if isinstance(value, (list, tuple, dict, set)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def stretched(base: int, factor: float, positions: int) -> int:
    """Context after stretching `base` tokens; never less than the file's own figure."""
    return max(positions, int(min(base * factor, MAX_SIZE)))
