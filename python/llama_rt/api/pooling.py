"""How an embedding model makes one vector of a text: sentence-transformers' `1_Pooling`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

from llama_rt.errors import ConfigError

__all__ = ["OWN_POOLING", "OwnPooling", "own_pooling"]

_MODES: dict[str, Literal["mean", "last"]] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}


class OwnPooling(str):
    """Says "mean", and that the caller did not say it: a model's own way comes first."""

    __slots__ = ()


OWN_POOLING = cast("Literal['mean']", OwnPooling("mean"))


def own_pooling(path: Path) -> Literal["mean", "last"]:
    """Returns the pooling that a checkpoint's folder asks for, `"mean"` if it says nothing.

    Raises:
        ConfigError: It asks for a way that is not computed; names it.
        CheckpointError: The file cannot be read.
    """
    from llama_rt.files import kind_of, read_json

    folder = path if kind_of(path) == "folder" else path.parent
    file = folder / "1_Pooling" / "config.json"
    if kind_of(file) == "nothing":
        return "mean"
    config = read_json(file)
    asked = [name for name, on in config.items() if name.startswith("pooling_mode_") and on is True]
    if not asked:
        return "mean"
    if len(asked) > 1 or asked[0] not in _MODES:
        msg = (
            f"{file}: says {', '.join(asked)}, which is not supported ({', '.join(_MODES)} are, "
            "one at a time); give `pooling`"
        )
        raise ConfigError(msg)
    return _MODES[asked[0]]
