"""From the keywords of a call to requests for the engine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from llama_rt.api.adapter_choice import ALL, Adapter, LoadedAdapter, choose_adapters
from llama_rt.api.prompts import fit
from llama_rt.engine import IncrementalDetokenizer, Request, named_ids, parse_stop
from llama_rt.errors import ConfigError
from llama_rt.sampling import (
    SamplingFields,
    SamplingParams,
    check_logprobs,
    make_sampler,
    random_seed,
    resolve,
)

if TYPE_CHECKING:
    from llama_rt.engine.prefix_cache import ActiveAdapters
    from llama_rt.tokenizer import Tokenizer

__all__ = ["CallOptions", "ChatOptions", "Settings", "Stop", "check_options", "take_variables"]

Stop = str | int | Sequence[str | int]


class CallOptions(SamplingFields, total=False):
    """The keywords of every call that generates; `Llama.generate` says what they mean."""

    max_tokens: int | None
    params: SamplingParams | None
    stop: Stop
    seed: int | None
    logprobs: int
    adapter: Adapter
    timeout: float | None
    priority: int
    cache_salt: str


class ChatOptions(CallOptions, total=False):
    """The keywords of every call that answers a conversation; `Llama.chat` says what they mean."""

    tools: Sequence[Mapping[str, object]] | None
    documents: Sequence[Mapping[str, object]] | None
    chat_template_kwargs: Mapping[str, object] | None
    add_generation_prompt: bool | None
    continue_final_message: bool


@dataclass(frozen=True, slots=True)
class Settings:
    """One call's checked keywords."""

    params: SamplingParams
    max_tokens: int | None
    stop: tuple[str, ...]
    stop_ids: frozenset[int]
    logprobs: int
    active: ActiveAdapters
    timeout: float | None
    priority: int
    cache_salt: str

    def request(
        self,
        prompt: Sequence[int],
        tokenizer: Tokenizer,
        *,
        vocab_size: int,
        n_ctx: int,
        cache_tokens: int,
        streaming: bool,
        isa: str,
    ) -> Request:
        """Makes the request of one prompt.

        Args:
            prompt: Ids, at least one.
            tokenizer: Turns sampled tokens into text.
            vocab_size: Rows of the output matrix.
            n_ctx: Context in tokens.
            cache_tokens: Tokens that the cache can hold.
            streaming: The caller wants chunks.
            isa: Highest ISA level that sampling uses; empty is the best.

        Raises:
            CapacityError: The prompt does not fit.
            ConfigError: An id of `logit_bias` or `stop` is not in the vocabulary.
        """
        max_new = fit(len(prompt), self.max_tokens, n_ctx, cache_tokens)
        seed = random_seed() if self.params.seed is None else self.params.seed
        asked: dict[int, str | int] = {id: id for id in self.stop_ids}
        asked |= named_ids(self.stop, tokenizer.special_ids)
        sampler = make_sampler(
            self.params,
            vocab_size=vocab_size,
            seed=seed,
            stop_ids=tokenizer.stop_ids | asked.keys(),
            suppressed={*tokenizer.unsampled_ids, *range(tokenizer.vocab_size, vocab_size)},
            logprobs=self.logprobs,
            isa=isa,
        )
        sampler.observe(np.array(prompt, dtype=np.int32))
        detokenizer = IncrementalDetokenizer(
            tokenizer, prompt, self.stop, logprobs=self.logprobs > 0
        )
        return Request(
            prompt,
            sampler,
            detokenizer,
            max_new=max_new,
            seed=seed,
            streaming=streaming,
            adapters=self.active,
            stop_reasons=asked,
            priority=self.priority,
            timeout=self.timeout,
            cache_salt=self.cache_salt,
        )


def check_options(
    caller: str, options: CallOptions, adapters: Mapping[str, LoadedAdapter]
) -> Settings:
    """Checks the keywords of a call.

    Args:
        caller: Name of the call, for messages.
        options: Its keywords, as given.
        adapters: Loaded adapters by name.

    Raises:
        TypeError: A keyword is unknown or a value has the wrong type.
        ConfigError: A value is out of range.
    """
    rest = cast("dict[str, object]", dict(options))
    active = choose_adapters(rest.pop("adapter", ALL), adapters)
    max_tokens = cast("int | None", rest.pop("max_tokens", None))
    strings, ids = parse_stop(rest.pop("stop", ()))
    logprobs = check_logprobs(rest.pop("logprobs", 0))
    params = cast("SamplingParams | None", rest.pop("params", None))
    seed = cast("int | None", rest.pop("seed", None))
    timeout = _check_timeout(rest.pop("timeout", None))
    priority, salt = rest.pop("priority", 0), rest.pop("cache_salt", "")
    if isinstance(priority, bool) or not isinstance(priority, int):
        msg = f"priority: expected an int, got {type(priority).__name__}"
        raise TypeError(msg)
    if not isinstance(salt, str):
        msg = f"cache_salt: expected a str, got {type(salt).__name__}"
        raise TypeError(msg)
    resolved = resolve(params, rest, seed, caller)
    return Settings(resolved, max_tokens, strings, ids, logprobs, active, timeout, priority, salt)


def take_variables(options: dict[str, object]) -> dict[str, Any]:
    """Takes from the keywords of a chat call those that are the template's.

    Args:
        options: The keywords, as given; what the template gets is removed.

    Returns:
        Keywords of `Template.render`.

    Raises:
        TypeError: A value has the wrong type.
        ConfigError: A name in `chat_template_kwargs` is taken.
    """
    extra = options.pop("chat_template_kwargs", None) or {}
    if not isinstance(extra, Mapping) or not all(isinstance(name, str) for name in extra):
        msg = f"chat_template_kwargs: expected a mapping of names, got {type(extra).__name__}"
        raise TypeError(msg)
    if "messages" in extra:
        msg = "chat_template_kwargs: 'messages' is the conversation, an argument of its own"
        raise ConfigError(msg)
    variables = dict(extra)
    for name in ("tools", "documents"):
        value = options.pop(name, None)
        if value is None:
            continue
        if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Sequence):
            msg = f"{name}: expected a list of mappings or None, got {type(value).__name__}"
            raise TypeError(msg)
        variables[name] = value
    for name in ("add_generation_prompt", "continue_final_message"):
        value = options.pop(name, None)
        if value is not None:
            variables[name] = value
        if not isinstance(variables.get(name, False), (bool, type(None))):
            msg = f"{name}: expected a bool, got {type(variables[name]).__name__}"
            raise TypeError(msg)
    return variables


def _check_timeout(timeout: object) -> float | None:
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        msg = f"timeout: expected seconds or None, got {type(timeout).__name__}"
        raise TypeError(msg)
    if not 0 < timeout < math.inf:
        msg = f"timeout: expected seconds above 0, got {timeout}"
        raise ConfigError(msg)
    return float(timeout)
