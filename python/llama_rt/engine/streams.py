"""How callers wait for the engine: for everything, chunk by chunk, or without blocking a loop."""

from __future__ import annotations

import queue
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from llama_rt.engine.engine import Engine
from llama_rt.engine.jobs import Event, Finished, Forward, Job, Request
from llama_rt.engine.results import Chunk, Completion

if TYPE_CHECKING:
    import asyncio

__all__ = ["AsyncStream", "Stream", "collect", "collect_async", "run_forwards"]


def collect(engine: Engine, requests: Sequence[Request]) -> list[Completion]:
    """Runs requests as one batch and waits for all of them.

    A Ctrl-C while waiting cancels them and is raised at once.

    Raises:
        LlamaRtError: Any of them failed; the others are cancelled.
    """
    events: queue.SimpleQueue[tuple[int, Event]] = queue.SimpleQueue()
    for index, request in enumerate(requests):
        request.set_callback(_tagged(events, index))
    done: dict[int, Completion] = {}
    try:
        engine.submit(requests)
        while len(done) < len(requests):
            index, event = events.get()
            if isinstance(event, Completion):
                done[index] = event
            else:
                _raise_if_error(event)
    except BaseException:
        _cancel_all(engine, requests)
        raise
    return [done[index] for index in range(len(requests))]


def run_forwards(engine: Engine, forwards: Sequence[Forward]) -> None:
    """Runs forward passes and waits for all; the first error, or a Ctrl-C, cancels the rest."""
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    for forward in forwards:
        forward.set_callback(events.put)
    left = len(forwards)
    try:
        if forwards:
            engine.submit(forwards)
        while left:
            event = events.get()
            _raise_if_error(event)
            left -= isinstance(event, Finished)
    except BaseException:
        _cancel_all(engine, forwards)
        raise


async def collect_async(engine: Engine, requests: Sequence[Request]) -> list[Completion]:
    """As `collect`, without blocking the running event loop; cancelling the task cancels them."""
    import asyncio

    loop = asyncio.get_running_loop()
    events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
    for index, request in enumerate(requests):
        request.set_callback(_tagged_in_loop(loop, events, index))
    done: dict[int, Completion] = {}
    try:
        engine.submit(requests)
        while len(done) < len(requests):
            index, event = await events.get()
            if isinstance(event, Completion):
                done[index] = event
            else:
                _raise_if_error(event)
    except BaseException:
        _cancel_all(engine, requests)
        raise
    return [done[index] for index in range(len(requests))]


class Stream(Iterator[Chunk]):
    """The chunks of one generation, as they come; work has begun when it is made.

    Closing it, leaving its `with` block or dropping it cancels what is still running.
    """

    def __init__(self, engine: Engine, request: Request) -> None:
        """Submits `request`."""
        self._engine = engine
        self._request = request
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._completion: Completion | None = None
        self._failure: BaseException | None = None
        self._over = False
        request.set_callback(self._events.put)
        engine.submit([request])

    def __iter__(self) -> Stream:
        """Returns the iterator itself."""
        return self

    def __next__(self) -> Chunk:
        """Waits for the next chunk.

        Raises:
            LlamaRtError: The generation failed.
        """
        if self._over:
            raise StopIteration
        event = self._next_event()
        if isinstance(event, Chunk):
            return event
        self._over = True
        raise StopIteration

    @property
    def completion(self) -> Completion:
        """The whole result; waits for the end, passing over chunks that were not taken."""
        while self._completion is None:
            self._next_event()
        return self._completion

    def close(self) -> None:
        """Cancels what is still running; the stream gives no more chunks."""
        self._over = True
        if self._completion is None:
            self._engine.cancel(self._request)

    def __enter__(self) -> Stream:
        """Returns the iterator itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the stream."""
        self.close()

    def __del__(self) -> None:
        """Cancels the generation: its chunks can no longer be read."""
        if hasattr(self, "_over"):
            self.close()

    def _next_event(self) -> Event:
        if self._failure is not None:
            raise self._failure
        try:
            event = self._events.get()
        except BaseException:  # Ctrl-C
            self.close()
            raise
        if not isinstance(event, Chunk):
            self._events.put(event)  # the last: for other threads that wait
        if isinstance(event, BaseException):
            self._failure, self._over = event, True
            raise event
        if isinstance(event, Completion):
            self._completion = event
        return event


class AsyncStream(AsyncIterator[Chunk]):
    """As `Stream`, for `async for`; work begins with the first chunk asked for.

    Cancelling the task that waits cancels the generation.
    """

    def __init__(self, engine: Engine, request: Request) -> None:
        """Keeps `request` until the first chunk is asked for."""
        self._engine = engine
        self._request = request
        self._events: asyncio.Queue[tuple[int, Event]] | None = None
        self._completion: Completion | None = None
        self._over = False

    def __aiter__(self) -> AsyncStream:
        """Returns the iterator itself."""
        return self

    async def __anext__(self) -> Chunk:
        """Waits for the next chunk.

        Raises:
            LlamaRtError: The generation failed.
        """
        if self._over:
            raise StopAsyncIteration
        events = self._submitted()
        try:
            _, event = await events.get()
            if not isinstance(event, Chunk):
                events.put_nowait((0, event))  # the last: for other tasks that wait
            _raise_if_error(event)
        except BaseException:
            self._stop()
            raise
        if isinstance(event, Chunk):
            return event
        if isinstance(event, Completion):
            self._completion = event
        self._over = True
        raise StopAsyncIteration

    @property
    def completion(self) -> Completion | None:
        """The whole result once the last chunk was taken, else None."""
        return self._completion

    async def aclose(self) -> None:
        """Cancels what is still running; the stream gives no more chunks."""
        self._stop()

    async def __aenter__(self) -> AsyncStream:
        """Returns the iterator itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes the stream."""
        self._stop()

    def __del__(self) -> None:
        """Cancels the generation: its chunks can no longer be read."""
        if hasattr(self, "_over"):
            self._stop()

    def _stop(self) -> None:
        self._over = True
        if self._events is not None and self._completion is None:
            self._engine.cancel(self._request)

    def _submitted(self) -> asyncio.Queue[tuple[int, Event]]:
        if self._events is None:
            import asyncio

            events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
            self._request.set_callback(_tagged_in_loop(asyncio.get_running_loop(), events, 0))
            self._engine.submit([self._request])
            self._events = events
        return self._events


def _tagged(events: queue.SimpleQueue[tuple[int, Event]], index: int) -> Callable[[Event], None]:
    def callback(event: Event) -> None:
        events.put((index, event))

    return callback


def _tagged_in_loop(
    loop: asyncio.AbstractEventLoop, events: asyncio.Queue[tuple[int, Event]], index: int
) -> Callable[[Event], None]:
    def callback(event: Event) -> None:
        loop.call_soon_threadsafe(events.put_nowait, (index, event))

    return callback


def _cancel_all(engine: Engine, jobs: Sequence[Job]) -> None:
    for job in jobs:
        engine.cancel(job)


def _raise_if_error(event: Event) -> None:
    if isinstance(event, BaseException):
        raise event
