"""What lies at a path, and the one way to open it: every failure of the system is a typed error.

Only regular files are opened: reading a pipe waits for a writer that may never come, and a device
may never end.
"""

from __future__ import annotations

import errno
import stat
from pathlib import Path
from typing import BinaryIO, Literal, NoReturn

from llama_rt.errors import CheckpointError, CheckpointNotFoundError

__all__ = ["PathKind", "kind_of", "names_in", "open_file", "read_head"]

PathKind = Literal["nothing", "file", "folder", "other"]

_NOTHING = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


def kind_of(path: Path) -> PathKind:
    """What a path leads to; "other" is a pipe, a socket, a device, or links that go in a circle.

    Raises:
        CheckpointError: the system does not tell, for want of permission for example.
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
        _refuse(path, error)
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "other"


def open_file(path: Path) -> BinaryIO:
    """Opens a regular file for reading.

    Raises:
        CheckpointNotFoundError: there is nothing at the path.
        CheckpointError: it is not a regular file, or the system refuses to open it.
    """
    kind = kind_of(path)
    if kind == "nothing":
        msg = f"{path}: no such file"
        raise CheckpointNotFoundError(msg)
    if kind != "file":
        what = "is a folder, " if kind == "folder" else "is "
        msg = f"{path}: {what}not a regular file"
        raise CheckpointError(msg)
    try:
        return path.open("rb")
    except OSError as error:
        _refuse(path, error)


def read_head(path: Path, count: int) -> bytes:
    """The first `count` bytes, or all of a shorter file.

    Raises:
        CheckpointNotFoundError: there is nothing at the path.
        CheckpointError: it is not a regular file, or cannot be read.
    """
    with open_file(path) as file:
        try:
            return file.read(count)
        except OSError as error:
            _refuse(path, error)


def names_in(folder: Path) -> list[str]:
    """Names of what is in a folder, sorted.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        return sorted(item.name for item in folder.iterdir())
    except OSError as error:
        _refuse(folder, error)


def _refuse(path: Path, error: OSError) -> NoReturn:
    msg = f"{path}: cannot be read: {error.strerror or error}"
    raise CheckpointError(msg) from None
