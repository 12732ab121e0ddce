"""Who wants what: cancelling work from any thread, and telling the driver's step about it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from llama_rt import _native
from llama_rt.generation.work import Work

__all__ = ["Gate"]


class Gate:
    """Every native step passes through here, so that it can be ended from outside.

    Attributes:
        lock: Guards what several threads share; re-entrant, because a stream that the garbage
            collector finds calls `cancel` wherever that happens to be. For the same reason nobody
            may wait for another thread while holding it.
        flag: Seen by the native module between layers.
        closed: Nothing is wanted any more.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.flag = _native.CancelFlag()
        self.closed = False
        self._in_step: Sequence[Work] = ()

    def cancel(self, work: Work) -> None:
        """Ends `work` soon: within a layer if nobody shares its step, else after the step."""
        with self.lock:
            work.cancelled = True
            if self._in_step and all(other.cancelled for other in self._in_step):
                self.flag.set()

    def close(self) -> None:
        """Ends everything, the running step at once."""
        with self.lock:
            self.closed = True
            self.flag.set()

    def is_unwanted(self, work: Work) -> bool:
        """Nobody waits for `work` any more."""
        return self.closed or work.cancelled or work.is_abandoned

    @contextmanager
    def step(self, works: Sequence[Work]) -> Iterator[bool]:
        """Announces a step; gives False if all its works were cancelled before it."""
        with self.lock:
            wanted = not self.closed and not all(work.cancelled for work in works)
            if wanted:
                self.flag.clear()
                self._in_step = works
        try:
            yield wanted
        finally:
            with self.lock:
                self._in_step = ()

    def after_fork(self) -> None:
        """In a child process: no other thread came along, whatever it held."""
        self.lock = threading.RLock()
        self._in_step = ()
