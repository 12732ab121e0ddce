"""Reading a tokenizer's files: whatever goes wrong is a `TokenizerError` that names the path.

Only regular files are opened: reading a pipe waits for a writer that may never come.
"""

from __future__ import annotations

import errno
import json
import re
import stat
from pathlib import Path

from llama_rt.errors import TokenizerError

__all__ = ["is_file", "is_folder", "json_object", "read_bytes"]

_MAX_BYTES = 256 << 20
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_NOTHING = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


def is_folder(path: Path) -> bool:
    """Says whether a folder lies at `path`.

    Raises:
        TokenizerError: The system does not tell, for want of permission for example.
    """
    return stat.S_ISDIR(_mode(path))


def is_file(path: Path) -> bool:
    """Says whether a file lies at `path`, and not nothing.

    Raises:
        TokenizerError: Something else lies there, or the system does not tell.
    """
    mode = _mode(path)
    if mode and not stat.S_ISREG(mode):
        msg = f"{path}: is {'a folder, ' if stat.S_ISDIR(mode) else ''}not a regular file"
        raise TokenizerError(msg)
    return bool(mode)


def _mode(path: Path) -> int:
    """`st_mode` of what lies at `path`, 0 for nothing."""
    try:
        return path.stat().st_mode
    except ValueError:  # a name that cannot be: one with a zero byte
        return 0
    except OSError as error:
        if error.errno in _NOTHING:
            return 0
        raise _unreadable(path, error) from None


def read_bytes(path: Path, count: int | None = None) -> bytes:
    """Reads a tokenizer file, or only its first `count` bytes.

    Raises:
        TokenizerError: The file cannot be read or is far too large for a tokenizer.
    """
    if not is_file(path):
        msg = f"{path}: no such tokenizer file"
        raise TokenizerError(msg)
    try:
        with path.open("rb") as stream:
            size = path.stat().st_size
            if count is not None or size <= _MAX_BYTES:
                return stream.read(-1 if count is None else count)
    except OSError as error:
        raise _unreadable(path, error) from None
    msg = f"{path}: {size} bytes is too large for a tokenizer file (at most {_MAX_BYTES})"
    raise TokenizerError(msg)


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


def _unreadable(path: Path, error: OSError) -> TokenizerError:
    return TokenizerError(f"{path}: cannot be read: {error.strerror or error}")
