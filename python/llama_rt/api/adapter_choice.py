"""Adapters as arguments: what is loaded, and which of it a request uses."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from llama_rt.errors import ConfigError

if TYPE_CHECKING:
    from llama_rt import _native
    from llama_rt.adapters import AdapterFile
    from llama_rt.checkpoint import Checkpoint
    from llama_rt.engine.prefix_cache import ActiveAdapters

__all__ = [
    "ALL",
    "Adapter",
    "AllAdapters",
    "LoadedAdapter",
    "attach_adapters",
    "choose_adapters",
    "merge_adapters",
    "open_adapters",
]


class AllAdapters(Enum):
    """The default of `adapter`: everything that was loaded."""

    ALL = "all adapters"

    def __repr__(self) -> str:
        """Shows a readable default in signatures."""
        return "<all adapters>"


ALL: Final = AllAdapters.ALL
Adapter = str | Mapping[str, float] | AllAdapters | None


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """An adapter attached to the loaded model, or merged into it (`native` is None)."""

    file: AdapterFile
    native: _native.Adapter | None


def open_adapters(adapters: object) -> dict[str, AdapterFile]:
    """Names the adapters that a caller gives and reads their headers.

    Args:
        adapters: Files or folders, named by their stems, or a mapping of names.

    Raises:
        ConfigError: Two have one name.
        CheckpointNotFoundError: A path does not exist.
        CheckpointError: One is damaged, or no adapter.
        TypeError: It is neither a sequence nor a mapping of paths.
    """
    named = _named(adapters)
    if not named:
        return {}
    from llama_rt.adapters import open_adapter

    return {name: open_adapter(path) for name, path in named.items()}


def attach_adapters(
    files: Mapping[str, AdapterFile], model: _native.Model, checkpoint: Checkpoint
) -> dict[str, LoadedAdapter]:
    """Attaches opened adapters to a finished model.

    Raises:
        CheckpointError: One was made for another model; names both shapes.
    """
    if not files:
        return {}
    from llama_rt.adapters import attach

    return {
        name: LoadedAdapter(
            file, None if file.merges else attach(file, model, checkpoint.config, checkpoint)
        )
        for name, file in files.items()
    }


def merge_adapters(checkpoint: Checkpoint, files: Mapping[str, AdapterFile]) -> Checkpoint:
    """Merges those of opened adapters that cannot be attached (DoRA, whole tensors).

    Raises:
        CheckpointError: One was made for another model; names both shapes.
    """
    merging = [file for file in files.values() if file.merges]
    if not merging:
        return checkpoint
    from llama_rt.adapters import merge

    return merge(checkpoint, merging)


def choose_adapters(adapter: object, loaded: Mapping[str, LoadedAdapter]) -> ActiveAdapters:
    """What a request's choice of adapters comes to, in order of loading.

    Args:
        adapter: A name, weights by name, None for none, or `ALL`.
        loaded: What there is.

    Raises:
        ConfigError: A name is not among the loaded ones, which are listed; or a weight is not
            finite, or not 0 or 1 for an adapter that does not add up.
        TypeError: It is neither a name, a mapping of names to weights, nor None.
    """
    if adapter is ALL:
        weights: Mapping[str, object] = dict.fromkeys(loaded, 1.0)
    elif adapter is None:
        weights = {}
    elif isinstance(adapter, str):
        weights = {adapter: 1.0}
    elif isinstance(adapter, Mapping):
        weights = adapter
    else:
        msg = f"adapter: expected a name, a mapping or None, got {type(adapter).__name__}"
        raise TypeError(msg)
    for name in weights:
        if name not in loaded:
            choices = ", ".join(loaded) or "none"
            msg = f"adapter: {name!r} is not loaded; loaded: {choices}"
            raise ConfigError(msg)
    active = []
    for name, one in loaded.items():
        weight = _weight(name, weights.get(name, 0.0), one.file)
        if one.native is None:
            if weight != 1.0:
                msg = (
                    f"adapter: {name!r} ({one.file.kind}) was merged into the weights when the "
                    "model was loaded, so every request uses it; load the model without it instead"
                )
                raise ConfigError(msg)
        elif weight != 0.0:
            active.append((one.native, weight))
    return tuple(active)


def _weight(name: str, weight: object, file: AdapterFile) -> float:
    if isinstance(weight, bool) or not hasattr(weight, "__float__"):
        msg = f"adapter: the weight of {name!r} must be a number, got {type(weight).__name__}"
        raise TypeError(msg)
    value = float(weight)
    if not math.isfinite(value):
        msg = f"adapter: the weight of {name!r} must be finite, got {value}"
        raise ConfigError(msg)
    if not file.scalable and value not in (0.0, 1.0):
        msg = (
            f"adapter: {name!r} ({file.kind}) replaces norms or scales inputs, so its weight is 0 "
            f"or 1, got {value:g}"
        )
        raise ConfigError(msg)
    return value


def _named(adapters: object) -> dict[str, str]:
    if adapters is None:
        return {}
    if isinstance(adapters, (str, os.PathLike)):
        adapters = [adapters]
    if isinstance(adapters, Mapping):
        return {str(name): _path(path) for name, path in adapters.items()}
    if not isinstance(adapters, Iterable):
        msg = f"adapters: expected paths, got {type(adapters).__name__}"
        raise TypeError(msg)
    from llama_rt.adapters import split_options

    named: dict[str, str] = {}
    for item in adapters:
        path = _path(item)
        stem = split_options(path)[0].stem
        if stem in named:
            msg = f"adapters: two are named {stem!r}; give a mapping of names"
            raise ConfigError(msg)
        named[stem] = path
    return named


def _path(item: object) -> str:
    if not isinstance(item, (str, os.PathLike)):
        msg = f"adapters: expected a path, got {type(item).__name__}"
        raise TypeError(msg)
    return os.path.expanduser(item)  # noqa: PTH111 - an unknown user's path is not found, no more
