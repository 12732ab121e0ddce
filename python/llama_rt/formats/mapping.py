"""One file, mapped read-only: bounds-checked slices that cost no copy and give their pages back."""

from __future__ import annotations

import mmap
import struct
import weakref
from collections import deque
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llama_rt.errors import CheckpointError
from llama_rt.files import open_file

__all__ = ["MappedFile"]

_PAGE = mmap.PAGESIZE
_LFS_POINTER = b"version https://git-lfs"
_U64 = struct.Struct("<Q")


class MappedFile:
    """A whole file as bytes; stays mapped while any slice of it lives.

    Raises:
        CheckpointNotFoundError: the file does not exist.
        CheckpointError: it is not a regular file, is empty or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._dead: deque[weakref.ref[npt.NDArray[np.uint8]]] = deque()
        # By the id of the reference: what it refers to cannot be hashed.
        self._alive: dict[int, tuple[weakref.ref[npt.NDArray[np.uint8]], int, int]] = {}
        with open_file(path) as file:
            try:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError:
                msg = f"{path}: the file is empty"
                raise CheckpointError(msg) from None
            except OSError as error:
                msg = f"{path}: cannot be mapped: {error.strerror or error}"
                raise CheckpointError(msg) from None
        self.size = len(self._map)
        if self._map[: len(_LFS_POINTER)] == _LFS_POINTER:
            msg = f"{path}: a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"
            raise CheckpointError(msg)

    def check(self, offset: int, length: int, what: str) -> None:
        """Raises unless `length` bytes from `offset` lie within the file."""
        if offset < 0 or length < 0 or offset + length > self.size:
            present = max(0, min(self.size - offset, length)) if offset >= 0 else 0
            msg = (
                f"{self.path}: {what} needs {length} bytes at offset {offset}, "
                f"but {present} of them are in the file of {self.size} bytes"
            )
            raise CheckpointError(msg)

    def copy(self, offset: int, length: int, what: str) -> bytes:
        """A copy of a small piece: headers, names."""
        self.check(offset, length, what)
        return self._map[offset : offset + length]

    def strings(self, offset: int, count: int, what: str) -> tuple[list[str], int]:
        """`count` UTF-8 strings, each after its u64 length, and the offset after them.

        Vocabularies have hundreds of thousands: one loop, every length checked.
        """
        mapped, size, length_of = self._map, self.size, _U64.unpack_from
        found: list[str] = []
        for _ in range(count):
            start = offset + 8
            end = start + length_of(mapped, offset)[0] if start <= size else size + 1
            if end > size:
                self.check(offset, end - offset, what)
            found.append(mapped[start:end].decode("utf-8", "replace"))
            offset = end
        return found, offset

    def find_last(self, needle: bytes, start: int) -> int:
        """Offset of the last `needle` at or after `start`, or -1."""
        return self._map.rfind(needle, max(0, start))

    def view(self, offset: int, length: int, what: str) -> npt.NDArray[np.uint8]:
        """Bytes `[length]` in place, read-only.

        When the array and all its views are gone, the pages it touched leave this process with the
        next call (they stay in the page cache), so that reading tensor after tensor needs memory
        for one.
        """
        self.check(offset, length, what)
        self._forget_the_dead()
        array = np.frombuffer(self._map, dtype=np.uint8, count=length, offset=offset)
        first = -(-offset // _PAGE) * _PAGE  # whole pages only: a neighbour may be in use
        last = (offset + length) // _PAGE * _PAGE
        if last > first and hasattr(mmap, "MADV_DONTNEED"):
            # Python code that runs as an array is freed would receive, and lose, a Ctrl-C that came
            # during the native call before it; this callback has none.
            alive = weakref.ref(array, self._dead.append)
            self._alive[id(alive)] = (alive, first, last - first)
        return array

    def _forget_the_dead(self) -> None:
        while self._dead:
            _, start, length = self._alive.pop(id(self._dead.popleft()))
            self._map.madvise(mmap.MADV_DONTNEED, start, length)
