"""Reading a tokenizer's files: whatever goes wrong is a `TokenizerError` that names the path."""

from __future__ import annotations

import json
import re
from pathlib import Path

from llama_rt import files
from llama_rt.errors import TokenizerError

__all__ = ["is_file", "is_folder", "json_object", "read_bytes"]

_MAX_BYTES = 256 << 20
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def is_folder(path: Path) -> bool:
    """Says whether there is a folder at `path`.

    Raises:
        TokenizerError: The system does not tell, for want of permission for example.
    """
    return files.kind_of(path, TokenizerError) == "folder"


def is_file(path: Path) -> bool:
    """Says whether there is a file at `path`, and not nothing.

    Raises:
        TokenizerError: Something else is there, or the system does not tell.
    """
    return files.is_file(path, TokenizerError)


def read_bytes(path: Path, count: int | None = None) -> bytes:
    """Reads a tokenizer file, or only its first `count` bytes.

    Raises:
        TokenizerError: The file cannot be read or is far too large for a tokenizer.
    """
    data = files.read_head(path, _MAX_BYTES + 1 if count is None else count, TokenizerError)
    if len(data) > _MAX_BYTES:
        msg = f"{path}: is too large for a tokenizer file (at most {_MAX_BYTES} bytes)"
        raise TokenizerError(msg)
    return data


def json_object(path: Path) -> dict[str, object]:
    """Reads a JSON object; {} if there is no such file.

    Raises:
        TokenizerError: The file cannot be read or is no JSON object.
    """
    if not is_file(path):
        return {}
    data = read_bytes(path)
    try:
        value = json.loads(data.decode())
        if _SURROGATE.search(data):
            json.dumps(value, ensure_ascii=False).encode()  # refuses half of a pair
    except (ValueError, RecursionError) as error:
        msg = f"{path}: not JSON: {error}"
        raise TokenizerError(msg) from None
    if not isinstance(value, dict):
        msg = f"{path}: expected a JSON object, got {type(value).__name__}"
        raise TokenizerError(msg)
    return value
