"""What is at a path, and the one way to open it: every failure of the system is a typed error.

Only regular files are opened: reading a pipe waits for a writer that may never come, and a device
may never end.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import BinaryIO, Literal, NoReturn

from llama_rt.errors import CheckpointError, CheckpointNotFoundError, ConfigError, LlamaRtError

__all__ = ["PathKind", "is_file", "kind_of", "names_in", "open_file", "read_head", "read_json"]

PathKind = Literal["nothing", "file", "folder", "other"]

_MAX_JSON_BYTES = 16 << 20  # an index of a hundred thousand tensors; nothing real comes near
_NOTHING = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


def kind_of(path: Path, failure: type[LlamaRtError] = CheckpointError) -> PathKind:
    """What a path leads to; "other" is a pipe, a socket, a device, or links that go in a circle.

    Raises:
        CheckpointError: the system does not tell, for want of permission for example; or `failure`.
    """
    try:
        mode = path.stat().st_mode
    except ValueError:  # a name that cannot be: one with a zero byte
        return "nothing"
    except OSError as error:
        if error.errno in _NOTHING:
            return "nothing"
        if error.errno == errno.ELOOP:
            return "other"
        _refuse(path, error, failure)
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "other"


def is_file(path: Path, failure: type[LlamaRtError] = CheckpointError) -> bool:
    """Whether a regular file is at the path, and not nothing.

    Raises:
        CheckpointError: something else is there, or the system does not tell; or `failure`.
    """
    kind = kind_of(path, failure)
    if kind in ("folder", "other"):
        msg = f"{path}: is {'a folder, ' if kind == 'folder' else ''}not a regular file"
        raise failure(msg)
    return kind == "file"


def open_file(path: Path, failure: type[LlamaRtError] = CheckpointError) -> BinaryIO:
    """Opens a regular file for reading.

    Raises:
        CheckpointNotFoundError: there is nothing at the path; or `failure`.
        CheckpointError: it is not a regular file, or the system refuses to open it; or `failure`.
    """
    if not is_file(path, failure):
        msg = f"{path}: no such file"
        raise (CheckpointNotFoundError if failure is CheckpointError else failure)(msg)
    try:
        return path.open("rb")
    except OSError as error:
        _refuse(path, error, failure)


def read_head(path: Path, count: int, failure: type[LlamaRtError] = CheckpointError) -> bytes:
    """The first `count` bytes, or all of a shorter file.

    Raises:
        CheckpointNotFoundError: there is nothing at the path; or `failure`.
        CheckpointError: it is not a regular file, or cannot be read; or `failure`.
    """
    with open_file(path, failure) as file:
        try:
            # Python allocates all that is asked for.
            return file.read(min(count, os.fstat(file.fileno()).st_size + 1))
        except OSError as error:
            _refuse(path, error, failure)


def read_json(path: Path) -> dict[str, object]:
    """The object in a JSON file.

    Raises:
        CheckpointNotFoundError: there is no such file.
        CheckpointError: not a regular file, or not readable.
        ConfigError: too large, not JSON, or not an object.
    """
    raw = read_head(path, _MAX_JSON_BYTES + 1)
    if len(raw) > _MAX_JSON_BYTES:
        msg = f"{path}: larger than {_MAX_JSON_BYTES} bytes, which no such file is"
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


def names_in(folder: Path) -> list[str]:
    """Names of what is in a folder, sorted.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        return sorted(item.name for item in folder.iterdir())
    except OSError as error:
        _refuse(folder, error)


def _refuse(path: Path, error: OSError, failure: type[LlamaRtError] = CheckpointError) -> NoReturn:
    msg = f"{path}: cannot be read: {error.strerror or error}"
    raise failure(msg) from None
