"""Jobs of the engine: a request for text, or a plain forward pass over given ids."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from llama_rt.engine.detokenizer import IncrementalDetokenizer
from llama_rt.engine.prefix_cache import ActiveAdapters, CachedSequence
from llama_rt.engine.results import Chunk, Completion, FinishReason, Timings, Usage
from llama_rt.errors import LlamaRtError

if TYPE_CHECKING:
    from llama_rt import _native

__all__ = ["Event", "Finished", "Forward", "Job", "Request"]


@dataclass(frozen=True, slots=True)
class Finished:
    """A forward pass is over; its rows went to its own consumer."""


Event = Chunk | Completion | Finished | BaseException
"""What a caller is told, in order: chunks (if it streams), then one of the others."""


class Job:
    """A unit of work for the engine, and the callback that reports it.

    The engine's thread calls `emit`; every job emits exactly one last event.
    """

    def __init__(self, ids: Sequence[int], adapters: ActiveAdapters = ()) -> None:
        """Queues `ids` for the model with the active `adapters`; this thread is the owner."""
        self.history: list[int] = list(ids)
        self.adapters = adapters
        self.sequence: int | None = None
        self.fed = 0  # tokens of `history` in the cache
        self.cancelled = False
        self.owner = threading.current_thread()
        self._callback: Callable[[Event], None] | None = None

    def set_callback(self, callback: Callable[[Event], None]) -> None:
        """Sets the callback for events; the engine's thread calls it, so it must not block."""
        self._callback = callback

    def emit(self, event: Event) -> None:
        """Calls the callback; a job whose caller cannot be reached counts as cancelled."""
        if self._callback is None:
            return
        try:
            self._callback(event)
        except RuntimeError:  # its event loop was closed
            self.cancelled = True
        if not isinstance(event, Chunk):
            self._callback = None

    @property
    def is_abandoned(self) -> bool:
        """The program is ending and no thread that it waits for needs the result."""
        if threading.main_thread().is_alive():
            return False
        owner = self.owner
        return owner is threading.main_thread() or owner.daemon or not owner.is_alive()

    @property
    def sequence_id(self) -> int:
        """The sequence of a job that was started."""
        if self.sequence is None:
            msg = "a running job has no cache sequence"
            raise LlamaRtError(msg)
        return self.sequence

    @property
    def remaining(self) -> int:
        """Tokens known but not yet in the cache."""
        return len(self.history) - self.fed

    def next_tokens(self, count: int) -> npt.NDArray[np.int32]:
        """The next `count` tokens to feed, int32 `[count]`."""
        return np.array(self.history[self.fed : self.fed + count], dtype=np.int32)


class Forward(Job):
    """Runs ids in a fresh context and hands the rows to a consumer, chunk by chunk."""

    def __init__(
        self,
        ids: Sequence[int],
        consume: Callable[[int, npt.NDArray[np.float32]], None],
        *,
        states: bool,
        chunk: int,
        adapters: ActiveAdapters = (),
        parent: Forward | None = None,
        shared: int = 0,
    ) -> None:
        """Prepares the pass.

        Args:
            ids: Tokens, `[n]`.
            consume: Gets the first position and rows float32 `[<= chunk, vocab]` (or `[..., dim]`),
                in the engine's thread.
            states: Give normed states of the last layer instead of logits.
            chunk: Maximum number of tokens in one step.
            adapters: Adapters in use.
            parent: A pass that begins with the same `shared` ids: their rows need not come to
                `consume`, which then starts at a later position.
            shared: Number of those ids.
        """
        super().__init__(ids, adapters)
        self.parent = parent
        self.shared = shared
        self.consume = consume
        self.states = states
        self.chunk = chunk


class Request(Job):
    """One prompt on its way to a `Completion`."""

    def __init__(
        self,
        prompt: Sequence[int],
        sampler: _native.Sampler,
        detokenizer: IncrementalDetokenizer,
        *,
        max_new: int,
        seed: int,
        streaming: bool,
        adapters: ActiveAdapters = (),
        stop_reasons: Mapping[int, str | int] | None = None,
        priority: int = 0,
        timeout: float | None = None,
        cache_salt: str = "",
    ) -> None:
        """Prepares the request.

        Args:
            prompt: Ids, at least one.
            sampler: Native state that samples this request's tokens.
            detokenizer: Takes the sampled tokens.
            max_new: Maximum number of tokens to sample.
            seed: Seed of the sampler, for the report.
            streaming: The caller wants chunks.
            adapters: Adapters in use.
            stop_reasons: What the caller asked to stop at, by the id that ends the text.
            priority: Requests of a higher one are admitted first.
            timeout: Seconds from now after which it is ended.
            cache_salt: Its part of the cache is shared with requests of the same salt only.
        """
        super().__init__(prompt, adapters)
        self.sampler = sampler
        self.detokenizer = detokenizer
        self.max_new = max_new
        self.seed = seed
        self.streaming = streaming
        self.prompt_tokens = len(self.history)
        self.cached_tokens = 0
        self.sampled_count = 0
        self.stop_reasons = stop_reasons or {}
        self.priority = priority
        self.cache_key = (adapters, cache_salt)
        self.passed_over = 0  # the scheduler's count of prompt tokens when it was admitted
        self._submitted = time.perf_counter()
        self.deadline = None if timeout is None else self._submitted + timeout
        self._started = self._first = self._last = 0.0

    @property
    def is_decoding(self) -> bool:
        """Its first token is sampled, and only its last one is still to be fed."""
        return self.sampled_count > 0 and self.remaining == 1

    @property
    def is_late(self) -> bool:
        """Its time is over."""
        return self.deadline is not None and time.perf_counter() >= self.deadline

    @property
    def was_started(self) -> bool:
        """It was admitted before, and lost its part of a full cache since."""
        return self._started > 0

    @property
    def left(self) -> int:
        """Tokens that may still be sampled."""
        return self.max_new - self.sampled_count

    def cached_sequence(self) -> CachedSequence:
        """What this request has in the cache."""
        return CachedSequence(self.sequence_id, self.history[: self.fed], self.cache_key)

    def start(self, sequence: int, cached: int) -> None:
        """Takes a cache sequence that already holds the first `cached` tokens."""
        self.sequence, self.fed = sequence, cached
        if not self.was_started:
            self._started = time.perf_counter()
            self.cached_tokens = cached

    def accept(self, sampled: _native.Sampled) -> FinishReason | None:
        """Takes sampled tokens; returns why the request is over, or None.

        The end-of-text token is neither text nor a token of the result.

        Raises:
            LlamaRtError: its sampler could choose no token.
        """
        tokens = sampled.tokens
        self.history += tokens
        if sampled.failure:
            raise LlamaRtError(sampled.failure)
        if not tokens:
            return None
        self._last = time.perf_counter()
        self._first = self._first or self._last
        self.sampled_count += len(tokens)
        text_tokens = tokens[:-1] if sampled.stopped else tokens
        self.detokenizer.push(text_tokens, sampled.logprobs, sampled.top_logprobs)
        if sampled.stopped or self.detokenizer.stopped:
            return "stop"
        return "length" if self.left <= 0 else None

    def report(self) -> None:
        """Emits what is new, if the caller streams."""
        if self.streaming and (chunk := self.detokenizer.take()) is not None:
            self.emit(chunk)

    def finish(self, reason: FinishReason, stop_reason: str | int | None = None) -> None:
        """Emits the last chunk and the completion."""
        self.detokenizer.finish()
        if reason == "stop":
            stop_reason = self._stop_reason()
        if self.streaming and (chunk := self.detokenizer.take(reason)) is not None:
            self.emit(chunk)
        self.emit(self._completion(reason, stop_reason))

    def _stop_reason(self) -> str | int | None:
        """The caller's own stop string or id that ended the text."""
        return self.detokenizer.stop_string or self.stop_reasons.get(self.history[-1])

    def _completion(self, reason: FinishReason, stop_reason: str | int | None) -> Completion:
        detokenizer = self.detokenizer
        usage = Usage(self.prompt_tokens, len(detokenizer.tokens), self.cached_tokens)
        return Completion(
            text=detokenizer.text,
            tokens=detokenizer.tokens,
            finish_reason=reason,
            logprobs=detokenizer.logprobs,
            usage=usage,
            timings=self._timings(),
            seed=self.seed,
            stop_reason=stop_reason,
        )

    def _timings(self) -> Timings:
        now = time.perf_counter()
        started = self._started or now
        first = self._first or now
        return Timings(
            queue_s=started - self._submitted,
            prompt_s=first - started,
            decode_s=max(0.0, (self._last or first) - first),
            prompt_tokens=self.prompt_tokens - self.cached_tokens,
            decode_tokens=max(0, self.sampled_count - 1),
        )
