"""How the next token is sampled: the settings, their limits, and the native sampler they become.

The arithmetic (penalties, filters, the random choice) is native; this module checks the settings.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from numbers import Real
from typing import Any, TypedDict

import numpy as np

from llama_rt import _native
from llama_rt.errors import ConfigError

__all__ = [
    "SamplingFields",
    "SamplingParams",
    "check_logprobs",
    "make_sampler",
    "random_seed",
    "resolve",
]

MAX_SEED = 2**64 - 1
MAX_LOGPROBS = 100
# What the native sampler computes with.
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_FLOAT32_MIN = float(np.finfo(np.float32).tiny)


class SamplingFields(TypedDict, total=False):
    """The fields of `SamplingParams` that a call may give directly (`seed` has its own keyword)."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Settings of one generation; everything left out means "as the model says".

    Attributes:
        temperature: Divides the logits; 0 takes the most likely token (ties: the lowest id).
        top_k: Keep the k most likely tokens; 0 keeps all.
        top_p: Keep the most likely tokens that together reach this probability; 1 keeps all.
        min_p: Keep tokens at least this fraction as likely as the most likely one; 0 keeps all.
        typical_p: Keep the tokens closest to the expected information that together reach this
            probability (Meister et al. 2022); 1 keeps all.
        repetition_penalty: Divides positive and multiplies negative logits of tokens in the prompt
            or the text so far (Keskar et al. 2019); 1 is off.
        presence_penalty: Subtracted once from the logit of every token generated so far.
        frequency_penalty: Subtracted from a token's logit once per time it was generated.
        logit_bias: Added to the logits of these ids; `-inf` suppresses an id, `inf` forces it.
        seed: Start of the random numbers, 0 to 2**64 - 1; None takes one from the system. The seed
            that was used is in the `Completion`.

    Raises:
        ConfigError: A value is outside its range; names the field.
        TypeError: A value has the wrong type; names the field.
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    seed: int | None = None

    def __post_init__(self) -> None:
        """Checks every field and stores it as the plain type it stands for."""
        high_limit, low_limit = _FLOAT32_MAX, _FLOAT32_MIN
        checked: dict[str, object] = {
            "top_k": _integer("top_k", self.top_k, 0, 2**31 - 1),
            "logit_bias": _bias(self.logit_bias),
            "seed": None if self.seed is None else _integer("seed", self.seed, 0, MAX_SEED),
        }
        for name, low, high in (
            ("temperature", 0.0, high_limit),
            ("top_p", 0.0, 1.0),
            ("min_p", 0.0, 1.0),
            ("typical_p", 0.0, 1.0),
            ("repetition_penalty", low_limit, high_limit),
            ("presence_penalty", -high_limit, high_limit),
            ("frequency_penalty", -high_limit, high_limit),
        ):
            checked[name] = _number(name, getattr(self, name), low, high)
        for name, value in checked.items():
            object.__setattr__(self, name, value)


def resolve(
    params: SamplingParams | None, given: Mapping[str, object], seed: int | None, caller: str
) -> SamplingParams:
    """Joins a call's `params` with the fields given directly, which win.

    Args:
        params: The settings to start from; None is the defaults.
        given: Fields of `SamplingParams` by name, as the call's keywords.
        seed: The call's `seed`; None leaves that of `params`.
        caller: Name of the call, for messages.

    Raises:
        TypeError: `given` has a name that is no field, or `params` is something else.
        ConfigError: A value is outside its range.
    """
    if params is not None and not isinstance(params, SamplingParams):
        msg = f"params: expected SamplingParams, got {type(params).__name__}"
        raise TypeError(msg)
    known = [f.name for f in fields(SamplingParams)]
    for name in given:
        if name not in known:
            import difflib

            close = difflib.get_close_matches(name, [*known, "max_tokens", "logprobs", "stop"], 1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            msg = f"{caller}() got an unexpected keyword argument '{name}'{hint}"
            raise TypeError(msg)
    changes: dict[str, Any] = dict(given) if seed is None else {**given, "seed": seed}
    start = SamplingParams() if params is None else params
    return replace(start, **changes) if changes else start


def random_seed() -> int:
    """Takes a seed of 53 bits from the system: JSON and spreadsheets keep all its digits."""
    return int.from_bytes(os.urandom(7), "little") >> 3


def make_sampler(
    params: SamplingParams,
    *,
    vocab_size: int,
    seed: int,
    stop_ids: Collection[int],
    suppressed: Collection[int],
    logprobs: int,
    isa: str = "",
) -> _native.Sampler:
    """Makes the native state that samples one request's tokens.

    Args:
        params: Checked settings; their own `seed` is not looked at.
        vocab_size: Rows of the output matrix.
        seed: Start of this request's random numbers.
        stop_ids: Ids that end the text.
        suppressed: Ids that are never sampled, whatever the bias says.
        logprobs: Log-probabilities to report next to the chosen token's; 0 reports none at all.
        isa: Highest ISA level to use; empty is the best.

    Raises:
        ConfigError: An id of `logit_bias` or `stop` is not in the vocabulary, or all of them are
            suppressed.
    """
    for token in params.logit_bias:
        if token >= vocab_size:
            msg = f"logit_bias: id {token} is not in the vocabulary (0 to {vocab_size - 1})"
            raise ConfigError(msg)
    for token in stop_ids:
        if token >= vocab_size:
            msg = f"stop: id {token} is not in the vocabulary (0 to {vocab_size - 1})"
            raise ConfigError(msg)
    bias = {**params.logit_bias, **dict.fromkeys(suppressed, -math.inf)}
    if len(bias) >= vocab_size and all(added == -math.inf for added in bias.values()):
        msg = "logit_bias: suppresses every id of the vocabulary, so that none can be sampled"
        raise ConfigError(msg)
    return _native.Sampler(
        vocab_size,
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        typical_p=params.typical_p,
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        logit_bias=bias,
        seed=seed,
        stop_ids=sorted(stop_ids),
        logprobs=logprobs if logprobs > 0 else -1,
        isa=isa,
    )


def check_logprobs(count: object) -> int:
    """Returns how many of the most likely tokens to report, 0 to 100.

    Raises:
        ConfigError: It is outside that range.
        TypeError: It is no int.
    """
    return _integer("logprobs", count, 0, MAX_LOGPROBS)


def _number(name: str, value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        msg = f"{name}: expected a number, got {type(value).__name__}"
        raise TypeError(msg)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not low <= number <= high:
        msg = f"{name}: expected a number from {low:.3g} to {high:.3g}, got {value!r}"
        raise ConfigError(msg)
    return number


def _integer(name: str, value: object, low: int, high: int) -> int:
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        msg = f"{name}: expected an int, got {type(value).__name__}"
        raise TypeError(msg)
    if not low <= number <= high:
        msg = f"{name}: expected an int from {low} to {high}, got {number}"
        raise ConfigError(msg)
    return number


def _bias(value: object) -> dict[int, float]:
    if not isinstance(value, Mapping):
        msg = f"logit_bias: expected a mapping of ids to numbers, got {type(value).__name__}"
        raise TypeError(msg)
    bias: dict[int, float] = {}
    for key, added in value.items():
        token = _integer("logit_bias: id", key, 0, 2**31 - 1)
        is_number = isinstance(added, Real) and not isinstance(added, bool)
        if not is_number or math.isnan(added):
            msg = f"logit_bias[{token}]: expected a number, got {added!r}"
            raise ConfigError(msg)
        bias[token] = float(added)
    return bias
