"""Cancelling jobs from any thread, and ending the native step that computes them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from llama_rt import _native
from llama_rt.engine.jobs import Job

__all__ = ["CancellationRegistry"]


class CancellationRegistry:
    """Knows which jobs are in the native step, so that cancelling all of them ends it.

    Attributes:
        lock: Guards what several threads share; re-entrant, because a stream that the garbage
            collector finds calls `cancel` wherever that happens to be. For the same reason no
            thread may wait for another while holding it.
        flag: Checked by the native module between layers.
        closed: Every job counts as cancelled.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.flag = _native.CancelFlag()
        self.closed = False
        self._running: Sequence[Job] = ()

    def cancel(self, job: Job) -> None:
        """Ends `job` soon: within a layer if no other job shares its step, else after the step."""
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
        """The job was cancelled or abandoned, or the engine was closed."""
        return self.closed or job.cancelled or job.is_abandoned

    @contextmanager
    def running(self, jobs: Sequence[Job]) -> Iterator[bool]:
        """Registers the jobs of a step; gives False if all of them were cancelled before it."""
        with self.lock:
            active = not self.closed and not all(job.cancelled for job in jobs)
            if active:
                self.flag.clear()
                self._running = jobs
        try:
            yield active
        finally:
            with self.lock:
                self._running = ()

    def after_fork(self) -> None:
        """In a child process: other threads do not exist here, whatever lock they held."""
        self.lock = threading.RLock()
        self._running = ()
