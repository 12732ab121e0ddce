"""The scheduler: decides what the model runs next.

Each step admits waiting requests, drops cancelled ones, and runs one batch: a row for every
request that is decoding, then chunks of prompts up to the step's limit. When all are decoding, the
native loop samples several tokens before it returns (multi-step decode). Plain forward passes get
a chunk between the steps. Only the engine's thread calls this.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llama_rt.engine.cancellation import CancellationRegistry
from llama_rt.engine.jobs import Finished, Forward, Job, Request
from llama_rt.engine.prefix_cache import CachedSequence, PrefixCache, common_length
from llama_rt.engine.results import FinishReason
from llama_rt.errors import CancelledError, CapacityError, LlamaRtError

if TYPE_CHECKING:
    from llama_rt import _native

__all__ = ["Scheduler"]

# The native loop returns at least this often, so that text streams and new requests are admitted.
_DECODE_SECONDS = 0.02
_DECODE_STEPS = 256
# Maximum number of prompt tokens in a step that decoding requests share: their text must not stall.
_SHARED_TOKENS = 64
_KEPT_SEQUENCES = 4
# A prompt waits for another that is being read if it will save at least this many tokens.
_SHARED_BEGINNING = 32
# A request is admitted when its prompt and this many more tokens fit in the cache with the others.
_HEADROOM = 256


class Scheduler:
    """Continuous batching over one runner.

    A request's sampled tokens depend on its own logits and seed, never on what else is running; in
    a model loaded as reproducible its logits have the same bits in any batch.
    """

    def __init__(
        self,
        runner: _native.Runner,
        cancellation: CancellationRegistry,
        *,
        cache_tokens: int,
        max_batch_tokens: int,
        max_sequences: int,
    ) -> None:
        """Takes over `runner`; nothing else may call it.

        Args:
            runner: Model, cache and workspace.
            cancellation: Says which jobs were cancelled.
            cache_tokens: Tokens that the cache holds, all sequences together.
            max_batch_tokens: Maximum number of tokens in one step.
            max_sequences: Maximum number of requests in one batch; more wait.
        """
        self._runner = runner
        self._cancellation = cancellation
        self._cache_tokens = cache_tokens
        self._max_batch_tokens = max_batch_tokens
        self._max_sequences = min(max_sequences, max_batch_tokens)
        self._prefix_cache = PrefixCache(
            runner, max_sequences=_KEPT_SEQUENCES, max_tokens=cache_tokens // 2
        )
        self._waiting: deque[Request] = deque()
        self._active: list[Request] = []
        self._forwards: deque[Forward] = deque()

    @property
    def is_idle(self) -> bool:
        """There is nothing to do."""
        return not (self._waiting or self._active or self._forwards)

    def add(self, job: Job) -> None:
        """Queues a job."""
        if isinstance(job, Request):
            self._waiting.append(job)
        elif isinstance(job, Forward):
            self._forwards.append(job)

    def step(self) -> None:
        """Runs one batch and emits its events."""
        self._drop_finished()
        self._admit()
        self._advance_requests()
        self._advance_forward()

    def fail(self, error: BaseException) -> None:
        """Reports an error to every job and empties the cache."""
        jobs: list[Job] = [*self._active, *self._waiting, *self._forwards]
        self.forget()
        for job in jobs:
            job.emit(error)
        with contextlib.suppress(LlamaRtError):  # a broken device need not give anything back
            for job in jobs:
                if job.sequence is not None:
                    self._runner.release(job.sequence)
            self._prefix_cache.clear()

    def forget(self) -> None:
        """Drops all jobs without an event."""
        self._active.clear()
        self._waiting.clear()
        self._forwards.clear()

    def _drop_finished(self) -> None:
        """Ends what was cancelled, and what asked for no token at all."""
        for request in [*self._waiting, *self._active]:
            if self._cancellation.is_cancelled(request):
                self._finish(request, "cancelled")
            elif request.left <= 0:
                self._finish(request, "length")
        for job in list(self._forwards):
            if self._cancellation.is_cancelled(job):
                self._end_forward(job, CancelledError("the call was cancelled"))

    def _admit(self) -> None:
        """Admits waiting requests, first come, first served, as long as they fit in the cache."""
        while self._waiting and len(self._active) < self._max_sequences:
            request = self._waiting[0]
            running = [other.cached_sequence() for other in self._active]
            if self._should_wait(request, running):
                return
            needed = min(len(request.history) + _HEADROOM, self._cache_tokens)
            used = sum(len(other.history) for other in self._active)
            if self._active and used + needed > self._cache_tokens:
                return
            request.start(*self._prefix_cache.take(request.history, running, request.adapters))
            self._active.append(self._waiting.popleft())
            while used + needed + self._prefix_cache.tokens > self._cache_tokens:
                if not self._prefix_cache.drop_oldest():
                    break

    def _should_wait(self, request: Request, running: Sequence[CachedSequence]) -> bool:
        """A running prompt shares a longer prefix with it than the cache holds."""
        ids = request.history
        others = [o for o in self._active if o.remaining > 1 and o.adapters == request.adapters]
        coming = [common_length(other.history, ids) for other in others]
        if max(coming, default=0) < _SHARED_BEGINNING:
            return False
        there = self._prefix_cache.reusable(ids, running, request.adapters)
        return max(coming) - there >= _SHARED_BEGINNING

    def _advance_requests(self) -> None:
        if not self._active:
            return
        if all(request.is_decoding for request in self._active):
            self._decode(list(self._active))
            return
        rows = [(request, 1) for request in self._active if request.remaining == 1]
        budget = self._max_batch_tokens - len(rows)
        if rows:
            budget = min(budget, _SHARED_TOKENS)
        for request in self._active:
            count = min(request.remaining, budget)
            if request.remaining > 1 and count > 0:
                rows.append((request, count))
                budget -= count
        self._run_batch(rows)

    def _run_batch(self, rows: list[tuple[Request, int]]) -> None:
        """One mixed batch of decoded tokens and chunks of prompts."""
        requests = [request for request, _ in rows]
        try:
            with self._cancellation.running(requests) as active:
                if not active:
                    return
                results = self._runner.step(
                    [request.sequence_id for request in requests],
                    [request.next_tokens(count) for request, count in rows],
                    [r.sampler if count == r.remaining else None for r, count in rows],
                    cancel=self._cancellation.flag,
                    adapters=[request.adapters for request in requests],
                )
        except CancelledError:
            return
        except CapacityError as error:
            self._free_cache(requests, error)
            return
        for (request, count), sampled in zip(rows, results, strict=True):
            request.fed += count
            self._accept(request, sampled)

    def _decode(self, requests: list[Request]) -> None:
        """Several tokens for each request without leaving native code."""
        try:
            with self._cancellation.running(requests) as active:
                if not active:
                    return
                results = self._runner.decode(
                    [request.sequence_id for request in requests],
                    [request.history[-1] for request in requests],
                    [request.sampler for request in requests],
                    steps=min(_DECODE_STEPS, *(request.left for request in requests)),
                    max_seconds=_DECODE_SECONDS,
                    cancel=self._cancellation.flag,
                    adapters=[request.adapters for request in requests],
                )
        except CapacityError as error:
            self._free_cache(requests, error)
            return
        for request, sampled in zip(requests, results, strict=True):
            # Each token was fed before the next was sampled, or could not be.
            request.fed += len(sampled.tokens) + bool(sampled.failure)
            self._accept(request, sampled)

    def _accept(self, request: Request, sampled: _native.Sampled) -> None:
        try:
            reason = request.accept(sampled)
        except Exception as error:  # it could not sample or decode its tokens; the others can
            self._end_request(request)
            request.emit(error)
            return
        if reason is None:
            request.report()
        else:
            self._finish(request, reason)

    def _advance_forward(self) -> None:
        """One chunk of the oldest forward pass."""
        if not self._forwards:
            return
        job = self._forwards[0]
        if job.sequence is None:
            job.sequence = self._runner.create()
        limit = min(job.chunk, _SHARED_TOKENS) if self._active else job.chunk
        tokens = job.next_tokens(min(limit, job.remaining))
        try:
            with self._cancellation.running([job]) as active:
                if not active:
                    return
                rows = self._runner.forward(
                    [job.sequence],
                    [tokens],
                    outputs="all",
                    states=job.states,
                    cancel=self._cancellation.flag,
                    adapters=[job.adapters],
                )
        except CancelledError:
            return
        except CapacityError as error:
            if not self._prefix_cache.drop_oldest() and not self._preempt():
                self._end_forward(job, error)
            return
        try:
            job.consume(job.fed, rows)
        except Exception as error:  # the caller's own, and only the caller's
            self._end_forward(job, error)
            return
        job.fed += len(tokens)
        if not job.remaining:
            self._end_forward(job, Finished())

    # A full cache.

    def _free_cache(self, requests: list[Request], error: CapacityError) -> None:
        """The cache is full: drops what is kept, then puts the last request back in the queue.

        A request that is alone with a full cache has used up its context, or never fitted.
        """
        if self._prefix_cache.drop_oldest():
            return
        if len(self._active) > 1:
            self._preempt()
        elif any(forward.sequence is not None for forward in self._forwards):
            return  # its cache is free when that pass ends
        elif requests[0].sampled_count:
            self._finish(requests[0], "length")
        else:
            self._end_request(requests[0])
            requests[0].emit(error)

    def _preempt(self) -> bool:
        """Takes the cache of the request that came last; it starts over later, same bits."""
        if not self._active:
            return False
        request = self._active.pop()
        self._runner.release(request.sequence_id)
        request.sequence, request.fed = None, 0
        self._waiting.appendleft(request)
        return True

    # Ends.

    def _finish(self, request: Request, reason: FinishReason) -> None:
        self._end_request(request)
        try:
            request.finish(reason)
        except Exception as error:  # its last tokens could not be decoded
            request.emit(error)

    def _end_request(self, request: Request) -> None:
        """Takes the request out; its part of the cache is kept for another."""
        if request.sequence is not None:
            tokens = request.history[: request.fed]
            self._prefix_cache.keep(request.sequence, tokens, request.adapters)
            request.sequence = None
        if request in self._active:
            self._active.remove(request)
        elif request in self._waiting:
            self._waiting.remove(request)

    def _end_forward(self, job: Forward, event: Finished | BaseException) -> None:
        self._forwards.remove(job)
        if job.sequence is not None:
            sequence, job.sequence = job.sequence, None
            self._runner.release(sequence)
        job.emit(event)
