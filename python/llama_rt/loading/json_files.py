"""JSON files of a checkpoint folder, read with typed errors."""

from __future__ import annotations

import json
from pathlib import Path

from llama_rt.errors import ConfigError
from llama_rt.files import read_head

__all__ = ["read_json"]

_MAX_BYTES = 16 << 20  # an index of a hundred thousand tensors; nothing real comes near


def read_json(path: Path) -> dict[str, object]:
    """The object in a JSON file.

    Raises:
        CheckpointNotFoundError: there is no such file.
        CheckpointError: not a regular file, or not readable.
        ConfigError: too large, not JSON, or not an object.
    """
    raw = read_head(path, _MAX_BYTES + 1)
    if len(raw) > _MAX_BYTES:
        msg = f"{path}: larger than {_MAX_BYTES} bytes, which no such file is"
        raise ConfigError(msg)
    try:
        value = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        msg = f"{path}: not valid JSON: {str(error)[:120]}"
        raise ConfigError(msg) from None
    if not isinstance(value, dict):
        msg = f"{path}: holds a JSON {type(value).__name__}; an object was expected"
        raise ConfigError(msg)
    return value
