"""A completion for people (one quiet line) and for programs (one object)."""

from __future__ import annotations

from llama_rt import Completion
from llama_rt.cli.console import plural, rate

__all__ = ["as_json", "summary"]

_ENDINGS = {"stop": "ended by itself", "length": "length reached", "cancelled": "cancelled"}


def summary(done: Completion) -> str:
    """What a completion took: tokens and speeds, why it ended, how to repeat it."""
    usage, timings = done.usage, done.timings
    reused = f", {usage.cached_tokens} of them from the cache" if usage.cached_tokens else ""
    parts = [f"prompt {plural(usage.prompt_tokens, 'token')}{reused}"]
    if timings.prompt_tokens_per_second:
        parts[0] += f", {rate(timings.prompt_tokens_per_second)}"
    parts.append(f"generated {plural(usage.completion_tokens, 'token')}")
    if timings.generation_tokens_per_second:
        parts[1] += f", {rate(timings.generation_tokens_per_second)}"
    return " · ".join([*parts, _ENDINGS[done.finish_reason], f"seed {done.seed}"])


def as_json(done: Completion) -> dict[str, object]:
    """The text and everything known about how it came to be."""
    usage, timings = done.usage, done.timings
    return {
        "text": done.text,
        "tokens": list(done.tokens),
        "finish_reason": done.finish_reason,
        "seed": done.seed,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "cached_tokens": usage.cached_tokens,
        },
        "timings": {
            "prompt_s": timings.prompt_s,
            "prompt_tok_s": timings.prompt_tokens_per_second,
            "generation_s": timings.decode_s,
            "generation_tok_s": timings.generation_tokens_per_second,
        },
    }
