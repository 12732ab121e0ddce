"""`SamplingParams`: defaults of the outer surface, limits, and how a call's fields join them."""

import dataclasses
import math
import pickle

import numpy as np
import pytest

from llama_rt import ConfigError, LlamaRtError, SamplingParams
from llama_rt.sampling import check_logprobs, random_seed, resolve

DEFAULTS = {
    "temperature": 0.8,
    "top_k": 0,
    "top_p": 0.95,
    "min_p": 0.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "logit_bias": {},
    "seed": None,
}


def test_defaults_are_those_of_the_interface():
    assert dataclasses.asdict(SamplingParams()) == DEFAULTS


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.inf),
        ("temperature", math.nan),
        ("temperature", 1e300),
        ("temperature", 10**400),
        ("top_k", -1),
        ("top_p", 1.5),
        ("top_p", -0.1),
        ("min_p", 2),
        ("typical_p", -1),
        ("repetition_penalty", 0),
        ("repetition_penalty", -2),
        ("repetition_penalty", 1e-300),
        ("presence_penalty", math.nan),
        ("frequency_penalty", math.inf),
        ("logit_bias", {-1: 0.0}),
        ("logit_bias", {3: math.nan}),
        ("logit_bias", {3: "x"}),
        ("seed", -1),
        ("seed", 2**64),
    ],
)
def test_values_out_of_range_name_the_field(field, value):
    with pytest.raises(ConfigError, match=field) as caught:
        SamplingParams(**{field: value})
    assert isinstance(caught.value, LlamaRtError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", "hot"),
        ("temperature", None),
        ("top_k", 1.5),
        ("top_k", True),
        ("top_p", True),
        ("logit_bias", [1, 2]),
        ("logit_bias", {"a": 1.0}),
        ("seed", "0"),
        ("seed", False),
    ],
)
def test_wrong_types_name_the_field(field, value):
    with pytest.raises(TypeError, match=field):
        SamplingParams(**{field: value})


def test_numbers_of_numpy_become_plain_ones():
    params = SamplingParams(
        temperature=np.float32(0.5), top_k=np.int64(4), logit_bias={np.int32(7): np.float64(1)}
    )
    assert (type(params.temperature), type(params.top_k)) == (float, int)
    assert params.logit_bias == {7: 1.0}


def test_it_is_a_value():
    params = SamplingParams(logit_bias={1: -math.inf}, seed=0)
    assert params == pickle.loads(pickle.dumps(params))
    assert hash(params) == hash(SamplingParams(logit_bias={2: 1.0}, seed=0))
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.seed = 1
    given = {5: 1.0}
    kept = SamplingParams(logit_bias=given)
    given[6] = 2.0
    assert kept.logit_bias == {5: 1.0}


def test_fields_given_directly_win():
    base = SamplingParams(temperature=0.5, top_k=3, seed=1)
    joined = resolve(base, {"top_k": 9}, 7, "generate")
    assert (joined.temperature, joined.top_k, joined.seed) == (0.5, 9, 7)
    assert resolve(base, {}, None, "generate") is base
    assert resolve(None, {}, 0, "generate").seed == 0


def test_an_unknown_field_is_a_type_error_that_helps():
    with pytest.raises(TypeError, match=r"generate\(\).*'temprature'.*'temperature'"):
        resolve(None, {"temprature": 1.0}, None, "generate")
    with pytest.raises(TypeError, match="params"):
        resolve({"temperature": 1.0}, {}, None, "generate")


def test_log_probability_counts_are_checked():
    assert check_logprobs(0) == 0
    assert check_logprobs(5) == 5
    with pytest.raises(ConfigError, match="logprobs"):
        check_logprobs(-1)
    with pytest.raises(TypeError, match="logprobs"):
        check_logprobs(True)


def test_random_seeds_differ_and_survive_json():
    seeds = {random_seed() for _ in range(50)}
    assert len(seeds) == 50
    assert all(0 <= seed < 2**53 for seed in seeds)
