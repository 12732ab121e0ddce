"""config.json in old and new spellings; the rope numbers against transformers' own."""

import math

import numpy as np
import pytest

from llama_rt.config import ModelConfig, RopeScaling, from_hf
from llama_rt.errors import ConfigError

BASE = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64,
    "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 96, "vocab_size": 100,
    "max_position_embeddings": 256,
}  # fmt: skip


def read(**changes):
    return from_hf({k: v for k, v in (BASE | changes).items() if v != "absent"}, source="x.json")


def test_minimal_file_of_2023():
    config = read(architectures=["LLaMAForCausalLM"], rms_norm_eps=1e-6, bos_token_id=0,
                  eos_token_id=1, pad_token_id=-1, torch_dtype="float16")  # fmt: skip
    assert config == ModelConfig(
        dim=64, n_layers=2, n_heads=4, n_kv_heads=4, head_dim=16, ffn_dim=96, vocab_size=100,
        norm_eps=1e-6, rope_style="halves", max_context=256,
    )  # fmt: skip


def test_class_defaults():
    config = from_hf({"model_type": "llama"})
    assert (config.dim, config.n_layers, config.n_heads, config.n_kv_heads) == (4096, 32, 32, 32)
    assert (config.ffn_dim, config.vocab_size, config.max_context) == (11008, 32000, 2048)
    assert (config.norm_eps, config.rope_theta, config.head_dim) == (1e-6, 10000.0, 128)
    assert not config.tie_embeddings
    assert config.sliding_window is None


def test_class_defaults_are_those_of_transformers():
    transformers = pytest.importorskip("transformers")
    for kind, ours in (
        (transformers.LlamaConfig, from_hf({"model_type": "llama"})),
        (transformers.MistralConfig, from_hf({"model_type": "mistral"})),
    ):
        theirs = kind()
        assert ours.dim == theirs.hidden_size
        assert ours.n_kv_heads == (theirs.num_key_value_heads or theirs.num_attention_heads)
        assert ours.ffn_dim == theirs.intermediate_size
        assert ours.max_context == theirs.max_position_embeddings
        assert ours.norm_eps == theirs.rms_norm_eps
        assert ours.sliding_window == getattr(theirs, "sliding_window", None)


def test_model_type_or_architecture_alone_suffices():
    assert read(model_type="absent").dim == 64
    assert read(architectures="absent").dim == 64
    assert read(architectures=None).dim == 64


def test_head_width_of_its_own():
    assert read(head_dim=32).head_dim == 32
    assert read(head_dim=None).head_dim == 16
    assert read(hidden_size=66, head_dim=8).head_dim == 8


@pytest.mark.parametrize(("window", "expected"), [(16, 16), (None, None), ("absent", 4096)])
def test_mistral_window(window, expected):
    config = read(model_type="mistral", architectures=["MistralForCausalLM"],
                  sliding_window=window, num_key_value_heads=2)  # fmt: skip
    assert config.sliding_window == expected


def test_llama_ignores_a_window():
    assert read(sliding_window=16).sliding_window is None


def test_flags_and_theta():
    config = read(tie_word_embeddings=True, attention_bias=True, mlp_bias=True, rope_theta=5e5)
    assert config.tie_embeddings
    assert config.attention_bias
    assert config.mlp_bias
    assert config.rope_theta == 5e5


# --- rope ---

NUMBERS = {
    "linear": ({"factor": 4.0}, RopeScaling("linear", 4.0), 1024),
    "dynamic": ({"factor": 2.0}, RopeScaling("dynamic", 2.0, original_context=256), 256),
    "llama3": (
        {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 64},
        RopeScaling("llama3", 8.0, 1.0, 4.0, 64), 256,
    ),
    "yarn": (
        {"factor": 4.0, "original_max_position_embeddings": 64},
        RopeScaling("yarn", 4.0, original_context=64, attention_factor=0.1 * math.log(4) + 1), 256,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.parametrize("spelling", ["type", "rope_type", "rope_parameters"])
def test_rope_rules_in_each_spelling(kind, spelling):
    numbers, expected, context = NUMBERS[kind]
    if spelling == "rope_parameters":
        config = read(rope_parameters={"rope_type": kind, "rope_theta": 5e5, **numbers})
    else:
        config = read(rope_scaling={spelling: kind, **numbers}, rope_theta=5e5)
    assert config.rope_scaling == expected
    assert config.rope_theta == 5e5
    assert config.max_context == context


@pytest.mark.parametrize("rope", [None, {"rope_type": "default", "rope_theta": 10000.0}, {}])
def test_plain_rope(rope):
    for key in ("rope_scaling", "rope_parameters"):
        assert read(**{key: rope}).rope_scaling == RopeScaling()


def test_long_context_with_the_base_length():
    """Vicuna 1.5-16k: linear scaling of a 4096 base; 2023 files say max_sequence_length."""
    assert read(max_position_embeddings=4096, max_sequence_length=16384,
                rope_scaling={"type": "linear", "factor": 4.0}).max_context == 16384  # fmt: skip
    assert read(max_position_embeddings="absent", max_sequence_length=1024).max_context == 1024


@pytest.mark.parametrize(
    "extra",
    [
        {}, {"attention_factor": 1.3}, {"mscale": 0.7, "mscale_all_dim": 1.4},
        {"mscale": 1.0, "mscale_all_dim": 1.0}, {"mscale": 0.7}, {"mscale_all_dim": 0.7},
        {"mscale": 0, "mscale_all_dim": 1.0}, {"factor": 1.0}, {"factor": 0.5}, {"factor": 40.0},
        {"beta_fast": 16, "beta_slow": 2}, {"truncate": False}, {"factor": None},
        {"original_max_position_embeddings": None},
    ],
    ids=str,
)  # fmt: skip
def test_yarn_numbers_are_those_of_transformers(extra):
    """Frequencies and attention factor, as transformers computes them from the same file."""
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    from reference.model import Config, Rope, inverse_frequencies

    numbers = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
               "original_max_position_embeddings": 64, **extra}  # fmt: skip
    numbers = {key: value for key, value in numbers.items() if value is not None}
    if "factor" not in numbers:
        numbers["factor"] = None
    rope = read(rope_parameters=numbers).rope_scaling
    theirs = transformers.LlamaConfig(
        hidden_size=64, num_attention_heads=4, head_dim=16, max_position_embeddings=256,
        rope_parameters={**numbers, "factor": rope.factor},
    )  # fmt: skip
    frequencies, factor = ROPE_INIT_FUNCTIONS["yarn"](theirs, "cpu")
    assert rope.attention_factor == pytest.approx(factor)
    own = Config(head_dim=16, rope=Rope(
        "yarn", rope.factor, original_context=rope.original_context, beta_fast=rope.beta_fast,
        beta_slow=rope.beta_slow, truncate=rope.truncate,
    ))  # fmt: skip
    assert np.allclose(inverse_frequencies(own), frequencies.numpy(), rtol=3e-6)


def test_null_yarn_factor_is_the_ratio_of_lengths():
    rope = {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 64}
    assert read(rope_scaling=rope).rope_scaling.factor == 4


# --- what is refused ---


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["GPTNeoXForCausalLM"]}, ["GPTNeoX", "LlamaForCausalLM"]),
        ({"architectures": ["LlamaForSequenceClassification"]}, ["SequenceClassification"]),
        ({"model_type": "qwen2"}, ["'qwen2'", "llama, mistral"]),
        ({"model_type": "absent", "architectures": "absent"}, ["model_type", "LlamaForCausalLM"]),
        ({"architectures": "LlamaForCausalLM"}, ["list of strings"]),
        ({"hidden_act": "gelu"}, ["hidden_act", "'gelu'", "silu"]),
        ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, ["'longrope'", "yarn, llama3"]),
        ({"rope_scaling": {"type": "su"}}, ["'su'", "linear"]),
        ({"rope_scaling": {"type": "linear"}}, ["'factor'", "missing"]),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, ["'factor'", "> 0"]),
        ({"rope_scaling": {"type": "linear", "factor": float("nan")}}, ["'factor'", "> 0"]),
        ({"rope_scaling": {"type": "llama3"}}, ["'factor'", "missing"]),
        ({"rope_scaling": [1]}, ["rope_scaling", "object"]),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, ["between layers"]),
        ({"partial_rotary_factor": 0.5}, ["partial_rotary_factor"]),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, ["partial"]),
        ({"hidden_size": "64"}, ["'hidden_size'", "integer", "'64'"]),
        ({"hidden_size": True}, ["'hidden_size'", "True"]),
        ({"hidden_size": 64.5}, ["'hidden_size'", "64.5"]),
        ({"hidden_size": 65}, ["4", "65"]),
        ({"hidden_size": 10**30}, ["'hidden_size'"]),
        ({"hidden_size": 2**40}, ["dim must be between 1 and"]),
        ({"num_hidden_layers": 0}, ["n_layers", "0"]),
        ({"num_hidden_layers": 10**9}, ["n_layers"]),
        ({"num_key_value_heads": 3}, ["4 heads cannot share 3"]),
        ({"num_attention_heads": 0}, ["num_attention_heads"]),
        ({"head_dim": 15}, ["odd"]),
        ({"rms_norm_eps": -1.0}, ["norm_eps"]),
        ({"rms_norm_eps": 1e308}, ["norm_eps", "float32", "1e+308"]),
        ({"rope_theta": 1e308}, ["rope_theta", "float32"]),
        ({"rope_theta": 1e-320}, ["rope_theta", "float32"]),
        ({"rope_scaling": {"type": "linear", "factor": 1e-320}}, ["factor", "float32"]),
        ({"rope_scaling": {"type": "linear", "factor": 1e308}}, ["factor", "float32"]),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0, "attention_factor": 1e308}},
         ["attention_factor", "float32"]),
        ({"rms_norm_eps": "1e-6"}, ["'rms_norm_eps'", "number"]),
        ({"rope_theta": 0}, ["rope_theta"]),
        ({"tie_word_embeddings": 1}, ["'tie_word_embeddings'", "true or false"]),
        ({"max_position_embeddings": 0}, ["max_position_embeddings"]),
        ({"model_type": "mistral", "architectures": None, "sliding_window": 0,
          "num_key_value_heads": 4}, ["sliding_window"]),
    ],
    ids=str,
)  # fmt: skip
def test_refused_with_file_key_and_value(changes, words):
    with pytest.raises(ConfigError) as caught:
        read(**changes)
    message = str(caught.value)
    assert message.startswith("x.json")
    for word in words:
        assert word in message
    assert len(message) < 400


def test_original_length_of_llama3_defaults_to_the_context():
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    assert read(rope_scaling=rope).rope_scaling.original_context == 256
