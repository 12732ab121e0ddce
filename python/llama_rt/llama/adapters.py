"""Adapters and deltas as arguments: the one place that says what this version reads of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Final

from llama_rt.errors import CheckpointNotFoundError, ConfigError

__all__ = ["ALL", "Adapter", "AllAdapters", "check_adapter", "open_adapters", "refuse_base"]


class AllAdapters(Enum):
    """The default of `adapter`: everything that was loaded."""

    ALL = "all adapters"

    def __repr__(self) -> str:
        """For signatures."""
        return "<all adapters>"


ALL: Final = AllAdapters.ALL
Adapter = str | Mapping[str, float] | AllAdapters | None


def open_adapters(adapters: object) -> dict[str, Path]:
    """Names the adapters that a caller gives and opens them.

    Args:
        adapters: Files or folders, named by their stems, or a mapping of names.

    Raises:
        ConfigError: Two have one name; or there is any, as this version reads none.
        CheckpointNotFoundError: A path does not exist.
        TypeError: It is neither a sequence nor a mapping of paths.
    """
    named = _named(adapters)
    for name, path in named.items():
        if not path.exists():
            msg = f"{path}: no such file or folder (adapter {name!r})"
            raise CheckpointNotFoundError(msg)
    if named:
        msg = (
            f"adapters: this version of llama_rt reads no adapters, got {', '.join(named)}; merge "
            "them into the checkpoint or load without them"
        )
        raise ConfigError(msg)
    return named


def refuse_base(base: object) -> None:
    """Says that deltas are not read by this version, if there is a base.

    Raises:
        ConfigError: `base` is given.
        TypeError: It is no path.
    """
    if base is None:
        return
    if not isinstance(base, (str, os.PathLike)):
        msg = f"base: expected a path, got {type(base).__name__}"
        raise TypeError(msg)
    msg = "base: this version of llama_rt adds no deltas; load the merged checkpoint"
    raise ConfigError(msg)


def check_adapter(adapter: object, loaded: Mapping[str, Path]) -> None:
    """Checks a request's choice of adapters.

    Raises:
        ConfigError: A name is not among the loaded ones; names the choices.
        TypeError: It is neither a name, a mapping of names to weights, nor None.
    """
    if adapter is None or adapter is ALL:
        return
    if not isinstance(adapter, (str, Mapping)):
        msg = f"adapter: expected a name, a mapping or None, got {type(adapter).__name__}"
        raise TypeError(msg)
    for name in [adapter] if isinstance(adapter, str) else adapter:
        if name not in loaded:
            choices = ", ".join(loaded) or "none"
            msg = f"adapter: {name!r} is not loaded; loaded: {choices}"
            raise ConfigError(msg)


def _named(adapters: object) -> dict[str, Path]:
    if adapters is None:
        return {}
    if isinstance(adapters, (str, os.PathLike)):
        adapters = [adapters]
    if isinstance(adapters, Mapping):
        return {str(name): _path(path) for name, path in adapters.items()}
    if not isinstance(adapters, Iterable):
        msg = f"adapters: expected paths, got {type(adapters).__name__}"
        raise TypeError(msg)
    named: dict[str, Path] = {}
    for item in adapters:
        path = _path(item)
        if path.stem in named:
            msg = f"adapters: two are named {path.stem!r}; give a mapping of names"
            raise ConfigError(msg)
        named[path.stem] = path
    return named


def _path(item: object) -> Path:
    if not isinstance(item, (str, os.PathLike)):
        msg = f"adapters: expected a path, got {type(item).__name__}"
        raise TypeError(msg)
    return Path(item)
