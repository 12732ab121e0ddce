"""The engine: takes jobs from any thread and drives the scheduler from one of its own.

The driver thread exists only while there is work, so nothing has to be shut down at exit; a program
that ends takes the work of its daemon threads with it.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from llama_rt.engine.cancellation import CancellationRegistry
from llama_rt.engine.jobs import Job, Request
from llama_rt.engine.results import EngineStats
from llama_rt.engine.scheduler import Scheduler
from llama_rt.errors import DeviceError, LlamaRtError, QueueFullError

if TYPE_CHECKING:
    from llama_rt import _native

__all__ = ["Engine"]


class Engine:
    """Entry point of one runner for all callers; may be called from any thread."""

    def __init__(
        self,
        runner: _native.Runner,
        *,
        n_ctx: int,
        cache_tokens: int,
        max_batch_tokens: int = 512,
        max_sequences: int = 64,
        max_waiting: int | None = None,
    ) -> None:
        """Takes over `runner`; nothing else may call it.

        Args:
            runner: Model, cache and workspace.
            n_ctx: Context in tokens.
            cache_tokens: Tokens that the cache holds, all sequences together.
            max_batch_tokens: Maximum number of tokens in one step.
            max_sequences: Maximum number of requests in one batch; more wait.
            max_waiting: Maximum number of those that wait; None is any number.
        """
        self._max_sequences = max_sequences
        self._max_waiting = max_waiting
        self._cancellation = CancellationRegistry()
        self._scheduler = Scheduler(
            runner,
            self._cancellation,
            n_ctx=n_ctx,
            cache_tokens=cache_tokens,
            max_batch_tokens=max_batch_tokens,
            max_sequences=max_sequences,
        )
        self._arrivals: deque[Job] = deque()  # this and the next three: under the registry's lock
        self._driver: threading.Thread | None = None
        self._idle = threading.Event()
        self._idle.set()
        self._failure: LlamaRtError | None = None
        _engines.add(self)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queues jobs that should run together; they report to their callbacks.

        Raises:
            LlamaRtError: The engine is closed.
            QueueFullError: `max_waiting` requests wait already; none of `jobs` is queued.
            DeviceError: The device failed before and stays failed.
        """
        driver = None
        try:
            with self._cancellation.lock:
                self.check_usable()
                requests = [job for job in jobs if isinstance(job, Request)]
                self._check_queue(len(requests))
                self._arrivals.extend(jobs)
                if requests and self._scheduler.running < self._max_sequences:
                    self._cancellation.make_way(min(job.remaining for job in requests))
                if self._driver is None:
                    driver = threading.Thread(target=self._drive, name="llama_rt", daemon=False)
                    self._driver = driver
                    self._idle.clear()
            # Not under the lock: the collector may run in the new thread before `_drive` does, and
            # what it finds may call `cancel`.
            if driver is not None:
                driver.start()
        except RuntimeError as error:
            if driver is None or driver.ident is not None:
                raise
            self._drive_here(driver, error)
        except BaseException as error:  # Ctrl-C
            self._disown(driver, error)
            raise

    def _check_queue(self, count: int) -> None:
        if self._max_waiting is None:
            return
        waiting = self._scheduler.waiting + len(self._arrivals)
        queued = self._scheduler.running + waiting + count - self._max_sequences
        if queued > self._max_waiting:
            msg = (
                f"{self._scheduler.running} requests run and {waiting} wait; at most "
                f"{self._max_waiting} may wait (max_waiting)"
            )
            raise QueueFullError(msg)

    def stats(self) -> EngineStats:
        """What runs now, and what has happened since the model was loaded."""
        with self._cancellation.lock:
            self.check_usable()
            scheduler, counters = self._scheduler, self._scheduler.counters
            pages_used, pages = scheduler.pages
            return EngineStats(
                running=scheduler.running,
                waiting=scheduler.waiting + len(self._arrivals),
                pages_used=pages_used,
                pages=pages,
                **asdict(counters),
            )

    def _drive_here(self, driver: threading.Thread, error: RuntimeError) -> None:
        """No thread can be started: the interpreter is ending, or a limit is met."""
        try:
            with self._cancellation.lock:
                self._driver = driver = threading.current_thread()
            self._drive()
        except BaseException:
            self._disown(driver, error)
            raise

    def _disown(self, driver: threading.Thread | None, error: BaseException) -> None:
        """Fails the jobs of a driver that will not run, so that no caller waits for ever."""
        with self._cancellation.lock:
            if driver is None or self._driver is not driver or self._is_running(driver):
                return
            self._driver = None
            self._idle.set()
            self._enqueue_arrivals()
            self._scheduler.fail(error)

    @staticmethod
    def _is_running(driver: threading.Thread) -> bool:
        return driver.ident is not None and driver is not threading.current_thread()

    def check_usable(self) -> None:
        """Raises what `submit` would raise."""
        if self._cancellation.closed:
            msg = "this Llama is closed; load it again"
            raise LlamaRtError(msg)
        if self._failure is not None:
            raise self._failure

    def cancel(self, job: Job) -> None:
        """Ends `job` soon: within a layer if no other job shares its step, else after the step."""
        self._cancellation.cancel(job)

    def close(self) -> None:
        """Cancels everything, waits for the driver, frees the cache; may be called twice."""
        self._cancellation.close()
        self._idle.wait()
        if hasattr(self, "_scheduler"):  # streams of a closed engine do not keep its memory
            del self._scheduler

    def _drive(self) -> None:
        while True:
            with self._cancellation.lock:
                if self._driver is not threading.current_thread():
                    return  # a Ctrl-C disowned it while it was being started
                self._enqueue_arrivals()
                if self._scheduler.is_idle:
                    self._driver = None
                    self._idle.set()
                    return
            try:
                self._scheduler.step()
            except BaseException as error:  # whatever it is, the callers must be told
                self._fail(error)

    def _enqueue_arrivals(self) -> None:
        while self._arrivals:
            self._scheduler.add(self._arrivals.popleft())

    def _fail(self, error: BaseException) -> None:
        with self._cancellation.lock:
            self._enqueue_arrivals()
            if isinstance(error, DeviceError):
                self._failure = error
        self._scheduler.fail(error)

    def _after_fork(self) -> None:
        """In a child process: the driver did not come along."""
        was_busy = self._driver is not None
        self._cancellation.after_fork()
        self._driver = None
        self._idle = threading.Event()
        self._idle.set()
        self._arrivals.clear()
        if was_busy:
            self._scheduler.forget()
            msg = "this process was forked while the model was working; load the model again"
            self._failure = LlamaRtError(msg)


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


# Seconds that a fork waits for a driver which has answered its last caller and is about to end.
_FORK_GRACE = 0.25


def _before_fork() -> None:
    for engine in list(_engines):
        engine._idle.wait(_FORK_GRACE)


def _after_fork_in_child() -> None:
    for engine in list(_engines):
        engine._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
