"""Plain forward passes: rows of logits or states for callers who want numbers, not tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from llama_rt import _native
from llama_rt.engine.cancellation import CancellationRegistry
from llama_rt.engine.jobs import Finished, Forward
from llama_rt.engine.prefix_cache import pages_for
from llama_rt.errors import CancelledError, CapacityError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["ForwardQueue"]


class ForwardQueue:
    """Passes that run in chunks between the steps of requests, several in one batch.

    A pass that begins like another (its `parent`) branches off the other's sequence. Only the
    engine's thread calls this.

    Attributes:
        jobs: The passes, the oldest first.
    """

    def __init__(
        self,
        runner: _native.Runner,
        cancellation: CancellationRegistry,
        make_room: Callable[[], bool],
    ) -> None:
        """Uses `runner`; `make_room` frees a part of a full cache, or says that it cannot."""
        self._runner = runner
        self._cancellation = cancellation
        self._make_room = make_room
        self._was_abandoned = False
        self.jobs: list[Forward] = []

    def __len__(self) -> int:
        """Number of passes."""
        return len(self.jobs)

    def add(self, job: Forward) -> None:
        """Queues a pass."""
        self.jobs.append(job)

    def clear(self) -> None:
        """Drops all without an event."""
        self.jobs.clear()

    def drop_cancelled(self) -> None:
        """Ends what was cancelled."""
        for job in list(self.jobs):
            if self._cancellation.is_cancelled(job):
                self._end(job, CancelledError("the call was cancelled"))

    def advance(self, limit: int) -> None:
        """Computes one batch of at most `limit` rows; every other one may be abandoned."""
        rows = self._choose(limit)
        if not rows:
            return
        jobs = [job for job, _ in rows]
        total = 0 if self._was_abandoned else sum(count for _, count in rows)
        self._was_abandoned = False
        try:
            with self._cancellation.running(jobs, total) as active:
                if not active:
                    return
                values = self._runner.forward(
                    [job.sequence_id for job in jobs],
                    [job.next_tokens(count) for job, count in rows],
                    outputs="all",
                    states=jobs[0].states,
                    cancel=self._cancellation.flag,
                    adapters=[job.adapters for job in jobs],
                )
        except CancelledError:
            self._was_abandoned = True
            return
        except CapacityError as error:
            self._shrink(jobs, error)
            return
        first = 0
        for job, count in rows:
            self._consume(job, values[first : first + count])
            first += count

    def _choose(self, limit: int) -> list[tuple[Forward, int]]:
        """The next chunks, all with the outputs of the oldest pass."""
        rows: list[tuple[Forward, int]] = []
        total = 0
        used, pages = self._runner.cache_pages()
        begun = (job for job in self.jobs if job.sequence is not None)
        free = pages - used - sum(map(_pages_to_come, begun))
        for job in self.jobs:
            if rows and job.states != rows[0][0].states:
                continue
            if job.sequence is None:
                if rows and _pages_to_come(job) > free:
                    break  # it would take from those that have begun
                if not self._start(job):
                    continue
                free -= _pages_to_come(job)
            count = min(limit - total, job.chunk - total, job.remaining)
            if count < 1:
                break
            rows.append((job, count))
            total += count
        return rows

    def _start(self, job: Forward) -> bool:
        """Gives it a sequence; False if its parent has not come far enough yet."""
        if job.parent is not None and job.parent in self.jobs and job.parent.fed < job.shared:
            return False
        self._branch(job)
        if job.sequence is None:
            job.sequence = self._runner.create()
        return True

    def _branch(self, job: Forward) -> None:
        """Starts from the beginning that its parent has computed, if that is still there."""
        parent, job.parent = job.parent, None
        if parent is None or parent.sequence is None or parent.fed < job.shared:
            return
        with contextlib.suppress(CapacityError):
            job.sequence = self._runner.fork(parent.sequence, job.shared)
            job.fed = job.shared

    def _shrink(self, jobs: list[Forward], error: CapacityError) -> None:
        """The cache is full: all but the oldest pass start over when there is room."""
        started = [job for job in self.jobs if job.sequence is not None and job is not jobs[0]]
        for job in started:
            self._runner.release(job.sequence_id)
            job.sequence, job.fed = None, 0
        if not started and not self._make_room():
            self._end(jobs[0], error)

    def _consume(self, job: Forward, values: npt.NDArray[np.float32]) -> None:
        try:
            job.consume(job.fed, values)
        except Exception as error:  # the caller's own, and only the caller's
            self._end(job, error)
            return
        job.fed += len(values)
        for other in self.jobs:
            if other.parent is job and job.fed >= other.shared:
                self._branch(other)
        if not job.remaining:
            self._end(job, Finished())

    def _end(self, job: Forward, event: Finished | BaseException) -> None:
        self.jobs.remove(job)
        if job.sequence is not None:
            sequence, job.sequence = job.sequence, None
            self._runner.release(sequence)
        job.emit(event)


def _pages_to_come(job: Forward) -> int:
    """Pages that a pass still needs, and one for a beginning that ends within a page."""
    return pages_for(len(job.history)) - job.fed // _native.KV_PAGE_TOKENS
