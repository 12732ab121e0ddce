"""Cancelling jobs from any thread, and abandoning the native step that computes them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from llama_rt import _native
from llama_rt.engine.jobs import Job

__all__ = ["CancellationRegistry"]

# A step with fewer rows of prompts is over soon; a longer one is abandoned for a request with at
# most half its rows.
_LONG_STEP = 32


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
        self._abandonable = 0

    def cancel(self, job: Job) -> None:
        """Ends `job` soon: the running step is abandoned, or else one of few rows ends first."""
        with self.lock:
            job.cancelled = True
            only = bool(self._running) and all(other.cancelled for other in self._running)
            if only or self._abandonable:
                self.flag.set()

    def make_way(self, rows: int) -> None:
        """Abandons the running step if it has many more rows of prompts than a new request."""
        with self.lock:
            if self._abandonable >= max(_LONG_STEP, 2 * rows):
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
    def running(
        self, jobs: Sequence[Job], abandonable: int = 0, deadlines: Sequence[float] = ()
    ) -> Iterator[bool]:
        """Registers the jobs of a step; gives False if all of them were cancelled before it.

        Args:
            jobs: Who is in the step.
            abandonable: Rows of prompts that others may have computed again; 0: it must end.
            deadlines: Times of `time.perf_counter` at which it is abandoned.
        """
        with self.lock:
            active = not self.closed and not all(job.cancelled for job in jobs)
            if active:
                self.flag.clear()
                self._running, self._abandonable = jobs, abandonable
        timer = None
        if active and deadlines and abandonable >= _LONG_STEP:
            left = max(0.0, min(deadlines) - time.perf_counter())
            timer = threading.Timer(left, self._expire, [jobs])
            timer.daemon = True
            timer.start()
        try:
            yield active
        finally:
            if timer is not None:
                timer.cancel()
            with self.lock:
                self._running, self._abandonable = (), 0

    def _expire(self, jobs: Sequence[Job]) -> None:
        with self.lock:
            if self._running is jobs:
                self.flag.set()

    def after_fork(self) -> None:
        """In a child process: other threads do not exist here, whatever lock they held."""
        self.lock = threading.RLock()
        self._running, self._abandonable = (), 0
