"""Files that appear whole or not at all: written under a temporary name, renamed when complete."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from llama_rt.errors import CheckpointError
from llama_rt.files import kind_of

__all__ = ["new_file", "require_parent"]


@contextmanager
def new_file(
    path: Path, *, overwrite: bool = False, check: Callable[[Path], None] | None = None
) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` when the block, and then `check`, end without an error.

    `check` is given the complete file under its temporary name.

    Whatever goes wrong, a full disk or an interruption included, nothing is left behind and what
    was at `path` before is untouched.

    Raises:
        CheckpointError: `path` exists and `overwrite` is false, or the system refuses to write.
    """
    kind = kind_of(path)
    if kind == "folder" or (kind != "nothing" and not overwrite):
        what = "is a folder" if kind == "folder" else "exists"
        msg = f"{path}: {what}; it is not replaced unasked"
        raise CheckpointError(msg)
    require_parent(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if check is not None:
            check(temporary)
        temporary.replace(path)
    except OSError as error:
        msg = f"{path}: cannot be written: {error.strerror or error}"
        raise CheckpointError(msg) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def require_parent(path: Path) -> None:
    """Refuses a target whose folder is not there: it is not made unasked, it may be a slip."""
    if kind_of(path.parent) != "folder":
        msg = f"{path}: the folder {path.parent} does not exist"
        raise CheckpointError(msg)
