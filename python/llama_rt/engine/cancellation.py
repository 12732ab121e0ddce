"""Who wants what: cancelling work from any thread, and telling the driver's step about it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from llama_rt import _native
from llama_rt.engine.jobs import Job

__all__ = ["CancellationRegistry"]


class CancellationRegistry:
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
        self._running: Sequence[Job] = ()

    def cancel(self, job: Job) -> None:
        """Ends `job` soon: within a layer if nobody shares its step, else after the step."""
        with self.lock:
            job.cancelled = True
            if self._running and all(other.cancelled for other in self._running):
                self.flag.set()

    def close(self) -> None:
        """Ends everything, the running step at once."""
        with self.lock:
            self.closed = True
            self.flag.set()

    def is_cancelled(self, job: Job) -> bool:
        """Nobody waits for `job` any more."""
        return self.closed or job.cancelled or job.is_abandoned

    @contextmanager
    def running(self, jobs: Sequence[Job]) -> Iterator[bool]:
        """Announces a step; gives False if all its works were cancelled before it."""
        with self.lock:
            wanted = not self.closed and not all(job.cancelled for job in jobs)
            if wanted:
                self.flag.clear()
                self._running = jobs
        try:
            yield wanted
        finally:
            with self.lock:
                self._running = ()

    def after_fork(self) -> None:
        """In a child process: no other thread came along, whatever it held."""
        self.lock = threading.RLock()
        self._running = ()
