"""GGUF keys of architecture llama: defaults, per-layer arrays, rope, and what is refused."""

import math

import pytest

from llama_rt.config import RopeScaling, from_gguf
from llama_rt.errors import ConfigError

BASE = {
    "general.architecture": "llama", "llama.context_length": 256, "llama.embedding_length": 64,
    "llama.block_count": 2, "llama.feed_forward_length": 96, "llama.attention.head_count": 4,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
}  # fmt: skip


def read(changes=None, **options):
    keys = {k: v for k, v in (BASE | (changes or {})).items() if v is not None}
    return from_gguf(keys, source="m.gguf", vocab_size=100, **options)


def test_defaults():
    config = read()
    assert (config.n_kv_heads, config.head_dim, config.rope_theta) == (4, 16, 10000.0)
    assert config.rope_scaling == RopeScaling()
    assert config.rope_style == "interleaved"
    assert config.max_context == 256


def test_per_layer_arrays_of_equal_numbers():
    config = read({
        "llama.attention.head_count": [4, 4], "llama.attention.head_count_kv": [2, 2],
        "llama.feed_forward_length": [96, 96],
    })  # fmt: skip
    assert (config.n_heads, config.n_kv_heads, config.ffn_dim) == (4, 2, 96)


def test_head_width_of_its_own():
    keys = {"llama.attention.key_length": 32, "llama.attention.value_length": 32}
    assert read(keys).head_dim == 32


def test_causal_attention_may_be_said():
    assert read({"llama.attention.causal": True}) == read()


def test_what_only_tensors_tell():
    config = read(tied=True, attention_bias=True)
    assert config.tie_embeddings
    assert config.attention_bias
    assert not config.mlp_bias
    assert read({"llama.feed_forward_length": None}, ffn_dim=50).ffn_dim == 50


PREFIX = "llama.rope.scaling."


@pytest.mark.parametrize(
    ("keys", "expected", "context"),
    [
        ({"type": "none", "factor": 4.0}, RopeScaling(), 256),
        ({"type": "linear", "factor": 4.0}, RopeScaling("linear", 4.0), 256),
        ({"factor": 4.0}, RopeScaling("linear", 4.0), 256),
        ({"factor": 0.0}, RopeScaling(), 256),
        (
            {"type": "linear", "factor": 4.0, "original_context_length": 128},
            RopeScaling("linear", 4.0), 512,
        ),
        (
            {"type": "yarn", "factor": 4.0, "original_context_length": 64},
            RopeScaling(
                "yarn", 4.0, original_context=64, attention_factor=0.1 * math.log(4) + 1
            ), 256,
        ),
        (
            {"type": "yarn", "factor": 4.0, "attn_factor": 0.5, "yarn_beta_fast": 7.0},
            RopeScaling(
                "yarn", 4.0, original_context=256,
                attention_factor=0.5 * (0.1 * math.log(4) + 1),
            ), 1024,
        ),
    ],
)  # fmt: skip
def test_rope_scaling(keys, expected, context):
    config = read({PREFIX + key: value for key, value in keys.items()})
    assert config.rope_scaling == expected
    assert config.max_context == context


def test_spelling_of_very_old_files():
    assert read({"llama.rope.scale_linear": 2.0}).rope_scaling == RopeScaling("linear", 2.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"general.architecture": "falcon"}, ["general.architecture", "'falcon'", "'llama'"]),
        ({"general.architecture": None}, ["general.architecture", "missing"]),
        ({"llama.context_length": None}, ["llama.context_length"]),
        ({"llama.block_count": None}, ["llama.block_count"]),
        ({"llama.attention.layer_norm_rms_epsilon": None}, ["layer_norm_rms_epsilon"]),
        ({"llama.attention.head_count": None}, ["head_count"]),
        ({"llama.attention.head_count": [4, 2]}, ["differs between layers"]),
        ({"llama.attention.head_count": []}, ["differs"]),
        ({"llama.attention.head_count": ["4"]}, ["integers"]),
        ({"llama.attention.value_length": 8}, ["value_length"]),
        ({"llama.rope.dimension_count": 8}, ["dimension_count", "16"]),
        ({"llama.expert_count": 8}, ["expert"]),
        ({"llama.attention.causal": False}, ["'llama.attention.causal'", "false"]),
        ({"llama.attention.causal": 1}, ["'llama.attention.causal'", "true or false"]),
        ({"llama.attention.layer_norm_rms_epsilon": 1e308}, ["norm_eps", "float32", "1e+308"]),
        ({"llama.rope.freq_base": 1e308}, ["rope_theta", "float32"]),
        ({"llama.rope.scaling.attn_factor": 1e308}, ["attention_factor", "float32"]),
        ({"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 2.0}, ["'longrope'"]),
        ({"llama.embedding_length": 0}, ["width of 0"]),
        ({"llama.embedding_length": "64"}, ["integer"]),
    ],
    ids=str,
)
def test_refused(changes, words):
    with pytest.raises(ConfigError) as caught:
        read(changes)
    for word in ["m.gguf", *words]:
        assert word in str(caught.value)
