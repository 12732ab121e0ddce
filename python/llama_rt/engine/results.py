"""What a generation gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Chunk", "Completion", "EngineStats", "FinishReason", "Timings", "TokenLogprob", "Usage"]

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How likely one generated token was, by the model's own probabilities (before sampling rules).

    Attributes:
        token: The token's id.
        piece: Its text for display.
        logprob: Natural logarithm of its probability.
        top: The most likely ids and their log-probabilities, most likely first.
    """

    token: int
    piece: str
    logprob: float
    top: dict[int, float]


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts of tokens.

    Attributes:
        prompt_tokens: Tokens of the prompt, BOS included.
        completion_tokens: Tokens of the result (`len(completion.tokens)`).
        cached_tokens: Tokens of the prompt that an earlier call had left in the cache.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and result together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time went, in seconds; other requests may have shared it.

    Attributes:
        queue_s: From the call to the start of work.
        prompt_s: From there to the first token.
        decode_s: From the first token to the last.
        prompt_tokens: Tokens computed in `prompt_s` (those found in the cache do not count).
        decode_tokens: Tokens sampled in `decode_s`.
    """

    queue_s: float = 0.0
    prompt_s: float = 0.0
    decode_s: float = 0.0
    prompt_tokens: int = 0
    decode_tokens: int = 0

    @property
    def total_s(self) -> float:
        """From the call to the last token."""
        return self.queue_s + self.prompt_s + self.decode_s

    @property
    def prompt_tokens_per_second(self) -> float:
        """Tokens of the prompt per second; 0 where nothing was measured."""
        return self.prompt_tokens / self.prompt_s if self.prompt_s > 0 else 0.0

    @property
    def generation_tokens_per_second(self) -> float:
        """Generated tokens per second after the first; 0 where nothing was measured."""
        return self.decode_tokens / self.decode_s if self.decode_s > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Completion:
    """One prompt's result.

    Attributes:
        text: The text, without the prompt, the stop string or the end-of-text token.
        tokens: Ids of `text`. The end-of-text id is not among them; with a stop string, tokens
            that are wholly inside or after it are not either.
        finish_reason: `"stop"`: the model ended its text or a stop string came; `"length"`:
            `max_tokens` or the context was used up; `"cancelled"`.
        logprobs: One entry per token of `tokens` if asked for, else None.
        usage: Counts of tokens.
        timings: Seconds and tokens per second.
        seed: The seed that was used: the same call with it gives the same result.
        stop_reason: The stop string or id of the call that ended the text; None where the model
            ended it by a token of its own. `"timeout"` for a request whose time was over.
    """

    text: str
    tokens: list[int]
    finish_reason: FinishReason
    logprobs: list[TokenLogprob] | None
    usage: Usage
    timings: Timings
    seed: int
    stop_reason: str | int | None = None

    def __str__(self) -> str:
        """Returns the text, so that `print` shows it."""
        return self.text


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What the engine does now, and what it has done since the model was loaded.

    Attributes:
        running: Requests that hold a part of the cache.
        waiting: Requests that were not admitted yet.
        pages_used: Pages of the cache in use, by running requests and by what is kept of others.
        pages: Pages of the cache.
        prefix_asked: Tokens of prompts that were looked up in the cache.
        prefix_hit: Those of them that were there.
        preempted: How often a request lost its part of a full cache and started over.
        prompt_tokens: Tokens of prompts that were computed.
        generated_tokens: Tokens that were sampled.
    """

    running: int
    waiting: int
    pages_used: int
    pages: int
    prefix_asked: int
    prefix_hit: int
    preempted: int
    prompt_tokens: int
    generated_tokens: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next part of a result.

    Attributes:
        text: Whole characters; all chunks' texts together are the completion's.
        tokens: Ids of the text; all chunks' together are the completion's.
        logprobs: As in `Completion`, for these tokens.
        finish_reason: Set on the last chunk (whose text may be empty), else None.
    """

    text: str
    tokens: list[int]
    logprobs: list[TokenLogprob] | None = None
    finish_reason: FinishReason | None = None

    def __str__(self) -> str:
        """Returns the text, so that `print` shows it."""
        return self.text
