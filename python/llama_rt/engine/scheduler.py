"""The scheduler: decides what the model runs next.

Each step admits waiting requests, drops cancelled ones, and runs one batch: a row for every
request that is decoding, then chunks of prompts up to the step's limit, the shortest prompt first.
When all are decoding, the native loop samples several tokens before it returns (multi-step decode).
A step with many rows of prompts is abandoned when a short request arrives or one of its own is
cancelled, and done again later. Plain forward passes get a chunk between the steps. Only the
engine's thread calls this.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama_rt.engine.cancellation import CancellationRegistry
from llama_rt.engine.forward_queue import ForwardQueue
from llama_rt.engine.jobs import Forward, Job, Request
from llama_rt.engine.prefix_cache import CachedSequence, PrefixCache, common_length, pages_for
from llama_rt.engine.results import FinishReason
from llama_rt.errors import CancelledError, CapacityError, LlamaRtError

if TYPE_CHECKING:
    from llama_rt import _native

__all__ = ["Counters", "Scheduler"]

# The native loop returns at least this often, so that text streams and new requests are admitted.
_DECODE_SECONDS = 0.02
_DECODE_STEPS = 256
# Maximum number of prompt tokens in a step that decoding requests share: their text must not stall.
_SHARED_TOKENS = 64
# Tokens of finished sequences that are kept for prompts that begin the same way, or as many as two
# contexts hold; at most half the cache.
_KEPT_TOKENS = 32768
# A prompt that was passed over gains one token of precedence for so many tokens of others, so that
# short prompts that keep coming cannot starve a long one.
_AGEING = 4
# A prompt waits for another that is being read if it will save at least this many tokens.
_SHARED_BEGINNING = 32
# A request is admitted when its prompt and this many more tokens fit in the cache with the others.
_HEADROOM = 256
# Pages that are evicted at a time when the cache turns out to be full.
_EVICTED_PAGES = 4


@dataclass(slots=True)
class Counters:
    """What has happened since the model was loaded, in tokens and times.

    Attributes:
        prefix_asked: Tokens of prompts that were looked up in the cache.
        prefix_hit: Those of them that were there.
        preempted: How often a request lost its part of a full cache and started over.
        prompt_tokens: Tokens of prompts that were computed.
        generated_tokens: Tokens that were sampled.
    """

    prefix_asked: int = 0
    prefix_hit: int = 0
    preempted: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0


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
        n_ctx: int,
        cache_tokens: int,
        max_batch_tokens: int,
        max_sequences: int,
    ) -> None:
        """Takes over `runner`; nothing else may call it.

        Args:
            runner: Model, cache and workspace.
            cancellation: Says which jobs were cancelled.
            n_ctx: Context in tokens.
            cache_tokens: Tokens that the cache holds, all sequences together.
            max_batch_tokens: Maximum number of tokens in one step.
            max_sequences: Maximum number of requests in one batch; more wait.
        """
        self._runner = runner
        self._cancellation = cancellation
        self._cache_tokens = cache_tokens
        self._max_batch_tokens = max_batch_tokens
        self._max_sequences = min(max_sequences, max_batch_tokens)
        self._prefix_cache = PrefixCache(runner)
        kept = min(cache_tokens // 2, max(_KEPT_TOKENS, 2 * n_ctx))
        self._kept_pages = max(1, pages_for(kept))
        self._waiting: list[Request] = []  # by priority, then first come, first served
        self._active: list[Request] = []
        self._forwards = ForwardQueue(runner, cancellation, self._make_room_for_forward)
        # A step was abandoned since a long prompt last went on: steps are short and run to their
        # end until it does.
        self._was_abandoned = False
        self.counters = Counters()
        self.pages = runner.cache_pages()  # in use, and all of them, after the step before

    @property
    def running(self) -> int:
        """Requests that hold a part of the cache."""
        return len(self._active)

    @property
    def waiting(self) -> int:
        """Requests that were not admitted yet."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """There is nothing to do."""
        return not (self._waiting or self._active or self._forwards)

    def add(self, job: Job) -> None:
        """Queues a job."""
        if isinstance(job, Request):
            self._waiting.append(job)
            self._waiting.sort(key=lambda request: -request.priority)  # stable
        elif isinstance(job, Forward):
            self._forwards.add(job)

    def step(self) -> None:
        """Runs one batch and emits its events."""
        self._drop_finished()
        self._admit()
        self._advance_requests()
        self._advance_forwards()
        self.pages = self._runner.cache_pages()

    def fail(self, error: BaseException) -> None:
        """Reports an error to every job and empties the cache."""
        jobs: list[Job] = [*self._active, *self._waiting, *self._forwards.jobs]
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
            elif request.is_late:
                self._finish(request, "cancelled", "timeout")
            elif request.left <= 0:
                self._finish(request, "length")
        self._forwards.drop_cancelled()

    def _admit(self) -> None:
        """Admits waiting requests in their order, as long as they fit in the cache.

        One that waits for the beginning of another's prompt holds nobody else back.
        """
        running = [other.cached_sequence() for other in self._active] if self._waiting else []
        for request in list(self._waiting):
            if len(self._active) >= self._max_sequences:
                return
            if self._should_wait(request, running):
                continue
            needed = pages_for(min(len(request.history) + _HEADROOM, self._cache_tokens))
            used = sum(pages_for(len(other.history)) for other in self._active)
            if self._active and used + needed > self.pages[1]:
                return
            sequence, cached = self._prefix_cache.take(request.history, running, request.cache_key)
            if not request.was_started:
                self.counters.prefix_asked += len(request.history)
                self.counters.prefix_hit += cached
            request.start(sequence, cached)
            request.passed_over = self.counters.prompt_tokens
            self._waiting.remove(request)
            self._active.append(request)
            running.append(request.cached_sequence())
            self._make_room(needed - pages_for(cached))

    def _make_room(self, pages: int) -> None:
        """Evicts what is kept until so many pages are free, beside those that others will need."""
        used, total = self._runner.cache_pages()
        coming = sum(pages_for(len(r.history)) - pages_for(r.fed) for r in self._active[:-1])
        missing = pages + coming - (total - used)
        if missing > 0:
            self._prefix_cache.evict(missing)

    def _should_wait(self, request: Request, running: Sequence[CachedSequence]) -> bool:
        """A running prompt shares a longer prefix with it than the cache holds."""
        ids = request.history
        others = [o for o in self._active if o.remaining > 1 and o.cache_key == request.cache_key]
        coming = [common_length(other.history, ids) for other in others]
        if max(coming, default=0) < _SHARED_BEGINNING:
            return False
        there = self._prefix_cache.reusable(ids, running, request.cache_key)
        return max(coming) - there >= _SHARED_BEGINNING

    def _advance_requests(self) -> None:
        if not self._active:
            return
        if all(request.is_decoding for request in self._active):
            self._decode(list(self._active))
            return
        rows = [(request, 1) for request in self._active if request.remaining == 1]
        budget = self._max_batch_tokens - len(rows)
        if rows or self._was_abandoned:
            budget = min(budget, _SHARED_TOKENS)
        prompts = [request for request in self._active if request.remaining > 1]
        self._run_batch(rows + self._share(sorted(prompts, key=self._precedence), budget))

    @staticmethod
    def _share(prompts: list[Request], budget: int) -> list[tuple[Request, int]]:
        """Chunks of prompts, most urgent first, in `budget` rows.

        One that ends in this step should not wait for many rows of others: as many at most as its
        own are computed of those that go on.
        """
        rows: list[tuple[Request, int]] = []
        left, others = budget, budget
        for request in prompts:
            count = min(request.remaining, left)
            if count < request.remaining:
                count = min(count, others)
                others -= count
            if count < 1:
                break
            rows.append((request, count))
            left -= count
            if count == request.remaining:
                others = budget - left
        return rows

    def _precedence(self, request: Request) -> float:
        """Least first: the shortest remaining prompt, less what it was passed over for."""
        others = self.counters.prompt_tokens - request.passed_over
        return request.remaining - others / _AGEING

    def _run_batch(self, rows: list[tuple[Request, int]]) -> None:
        """One mixed batch of decoded tokens and chunks of prompts."""
        requests = [request for request, _ in rows]
        prompt_rows = sum(count for _, count in rows if count > 1)
        abandonable = 0 if self._was_abandoned else prompt_rows
        try:
            deadlines = [r.deadline for r in requests if r.deadline is not None]
            with self._cancellation.running(requests, abandonable, deadlines) as active:
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
            self._was_abandoned = True
            return
        except CapacityError as error:
            self._free_cache(requests, error)
            return
        self.counters.prompt_tokens += prompt_rows
        going_on = [count for request, count in rows if 1 < count < request.remaining]
        if not going_on or sum(going_on) >= _SHARED_TOKENS // 2:
            self._was_abandoned = False
        for (request, count), sampled in zip(rows, results, strict=True):
            request.fed += count
            request.passed_over += count if count > 1 else 0
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
        self.counters.generated_tokens += len(sampled.tokens)
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

    def _advance_forwards(self) -> None:
        limit = _SHARED_TOKENS if self._active else self._max_batch_tokens
        self._forwards.advance(limit)

    # A full cache.

    def _free_cache(self, requests: list[Request], error: CapacityError) -> None:
        """The cache is full: drops what is kept, then puts the last request back in the queue.

        A request that is alone with a full cache has used up its context, or never fitted.
        """
        if self._prefix_cache.evict(_EVICTED_PAGES):
            return
        if len(self._active) > 1:
            self._preempt()
        elif any(forward.sequence is not None for forward in self._forwards.jobs):
            return  # its cache is free when that pass ends
        elif requests[0].sampled_count:
            self._finish(requests[0], "length")
        else:
            self._end_request(requests[0])
            requests[0].emit(error)

    def _make_room_for_forward(self) -> bool:
        return self._prefix_cache.evict(_EVICTED_PAGES) or self._preempt()

    def _preempt(self) -> bool:
        """Takes the cache of the request that came last; it starts over later, same bits."""
        if not self._active:
            return False
        request = self._active.pop()
        self._runner.release(request.sequence_id)
        request.sequence, request.fed = None, 0
        self.counters.preempted += 1
        self._waiting.insert(0, request)
        return True

    # Ends.

    def _finish(
        self, request: Request, reason: FinishReason, stop_reason: str | None = None
    ) -> None:
        self._end_request(request)
        try:
            request.finish(reason, stop_reason)
        except Exception as error:  # its last tokens could not be decoded
            request.emit(error)

    def _end_request(self, request: Request) -> None:
        """Takes the request out; its part of the cache is kept for another."""
        if request.sequence is not None:
            tokens = request.history[: request.fed]
            self._prefix_cache.keep(request.sequence, tokens, request.cache_key)
            request.sequence = None
            self._limit_kept(request)
        if request in self._active:
            self._active.remove(request)
        elif request in self._waiting:
            self._waiting.remove(request)

    def _limit_kept(self, ended: Request) -> None:
        used = self._runner.cache_pages()[0]
        running = sum(pages_for(other.fed) for other in self._active if other is not ended)
        kept = used - running
        if kept > self._kept_pages:
            self._prefix_cache.evict(kept - self._kept_pages)
