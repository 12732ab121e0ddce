"""What callers may pass as a prompt, and turning it into ids."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from llama_rt.errors import CapacityError, ConfigError

if TYPE_CHECKING:
    from llama_rt.tokenizer import Tokenizer

__all__ = ["Prompt", "check_ids", "fit", "split_prompts", "to_ids"]

Prompt = str | Sequence[int]
"""A text, or ids as they are."""


def split_prompts(prompt: object) -> tuple[list[object], bool]:
    """Tells one prompt from a list of them.

    Returns:
        The prompts, each a str or a list of ids, and whether a list was given.

    Raises:
        TypeError: Neither; or texts and ids mixed on one level.
        ConfigError: An empty sequence, which could be either.
    """
    if isinstance(prompt, str):
        return [prompt], False
    items = _as_list(prompt)
    if not items:
        msg = "prompt: expected text, ids or a list of prompts, got an empty sequence"
        raise ConfigError(msg)
    nested = [isinstance(item, str) or not _is_index(item) for item in items]
    if not any(nested):
        return [items], False
    if not all(nested):
        msg = "prompt: expected one prompt or a list of prompts, got ids mixed with prompts"
        raise TypeError(msg)
    return [item if isinstance(item, str) else _as_list(item) for item in items], True


def to_ids(prompt: object, tokenizer: Tokenizer, vocab_size: int) -> list[int]:
    """Turns one prompt into ids: text is framed by the model's own rule, ids stay as they are.

    Raises:
        TypeError: It is neither text nor ids.
        ConfigError: It is empty, or an id is not in the vocabulary.
    """
    if not isinstance(prompt, str):
        return check_ids(prompt, vocab_size)
    ids = tokenizer.encode(prompt)
    if not ids:
        msg = "prompt: an empty text, and the tokenizer has no begin-of-text id to start from"
        raise ConfigError(msg)
    return ids


def check_ids(ids: object, vocab_size: int) -> list[int]:
    """Returns ids as a list of int, all in `[0, vocab_size)`, at least one.

    Raises:
        TypeError: They are no ids.
        ConfigError: There are none, or one is not in the vocabulary; names its position.
    """
    result = []
    for position, item in enumerate(_as_list(ids)):
        if not _is_index(item):
            msg = f"ids[{position}]: expected an int, got {type(item).__name__}"
            raise TypeError(msg)
        token = operator.index(item)  # type: ignore[arg-type]
        if not 0 <= token < vocab_size:
            msg = f"ids[{position}]: {token} is not in the vocabulary (0 to {vocab_size - 1})"
            raise ConfigError(msg)
        result.append(token)
    if not result:
        msg = "ids: expected at least one token id, got none"
        raise ConfigError(msg)
    return result


def fit(prompt_tokens: int, max_tokens: int | None, n_ctx: int, cache_tokens: int) -> int:
    """Returns how many tokens may follow a prompt.

    Args:
        prompt_tokens: Length of the prompt.
        max_tokens: Maximum number of tokens; None is as many as the context holds.
        n_ctx: Context length.
        cache_tokens: Tokens that the memory for the cache holds.

    Raises:
        CapacityError: The prompt does not fit, or leaves no space for a token that is wanted.
        ConfigError: `max_tokens` is negative.
        TypeError: `max_tokens` is no int.
    """
    if max_tokens is not None and not _is_index(max_tokens):
        msg = f"max_tokens: expected an int or None, got {type(max_tokens).__name__}"
        raise TypeError(msg)
    if max_tokens is not None and max_tokens < 0:
        msg = f"max_tokens: expected 0 or more, got {max_tokens}"
        raise ConfigError(msg)
    if cache_tokens < n_ctx and prompt_tokens >= cache_tokens:
        msg = (
            f"the prompt has {prompt_tokens} tokens, but the free memory holds a cache of "
            f"{cache_tokens}; load with kv_dtype='q8_0' or quantize=... to free memory"
        )
        raise CapacityError(msg)
    left = n_ctx - prompt_tokens
    if left < 0 or (left == 0 and max_tokens != 0):
        missing = "does not fit" if left < 0 else "leaves no space for a token"
        msg = f"the prompt has {prompt_tokens} tokens and {missing} in the context of {n_ctx}"
        raise CapacityError(msg)
    return left if max_tokens is None else min(operator.index(max_tokens), left)


def _as_list(value: object) -> list[object]:
    if hasattr(value, "tolist"):  # an array of numpy, torch, ...
        value = value.tolist()
    if isinstance(value, (bytes, dict, set, str)) or not isinstance(value, Iterable):
        msg = f"prompt: expected text or a sequence of ids, got {type(value).__name__}"
        raise TypeError(msg)
    return list(value)


def _is_index(item: object) -> bool:
    """An int, of Python's or of an array library; arrays of one element also pass for an index."""
    is_scalar = getattr(item, "ndim", 0) == 0
    return hasattr(item, "__index__") and is_scalar and not isinstance(item, (bool, np.bool_))
