"""JSON files of a checkpoint folder, read with typed errors."""

from __future__ import annotations

import json
from pathlib import Path

from llama_rt.errors import CheckpointNotFoundError, ConfigError

__all__ = ["read_json"]

_MAX_BYTES = 64 << 20  # an index of half a million tensors; nothing real comes near


def read_json(path: Path) -> dict[str, object]:
    """The object in a JSON file.

    Raises:
        CheckpointNotFoundError: there is no such file.
        ConfigError: not readable, not JSON, or not an object.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            msg = f"{path}: larger than {_MAX_BYTES} bytes, which no such file is"
            raise ConfigError(msg)
        value = json.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        msg = f"{path}: no such file"
        raise CheckpointNotFoundError(msg) from None
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror or error}"
        raise ConfigError(msg) from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        msg = f"{path}: not valid JSON: {str(error)[:120]}"
        raise ConfigError(msg) from None
    if not isinstance(value, dict):
        msg = f"{path}: holds a JSON {type(value).__name__}; an object was expected"
        raise ConfigError(msg)
    return value
