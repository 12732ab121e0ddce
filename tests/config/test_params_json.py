"""params.json of every release: the table of published sizes, and what is refused."""

import pytest

from llama_rt.config import RopeScaling, feed_forward_width, from_meta
from llama_rt.errors import ConfigError

# dim, layers, heads, kv heads, multiple_of, multiplier -> hidden width, as released
RELEASES = {
    "1-7B": (4096, 32, 32, None, 256, None, 11008),
    "1-13B": (5120, 40, 40, None, 256, None, 13824),
    "1-30B": (6656, 60, 52, None, 256, None, 17920),
    "1-65B": (8192, 80, 64, None, 256, None, 22016),
    "2-70B": (8192, 80, 64, 8, 4096, 1.3, 28672),
    "3-8B": (4096, 32, 32, 8, 1024, 1.3, 14336),
    "3.1-405B": (16384, 126, 128, 8, 4096, 1.2, 53248),
    "3.2-1B": (2048, 16, 32, 8, 256, 1.5, 8192),
    "3.2-3B": (3072, 28, 24, 8, 256, 1.0, 8192),
}
BASE = {"dim": 64, "multiple_of": 32, "n_heads": 4, "n_layers": 2, "norm_eps": 1e-6}


@pytest.mark.parametrize("release", RELEASES.values(), ids=RELEASES.keys())
def test_published_sizes(release):
    dim, layers, heads, kv_heads, multiple, multiplier, hidden = release
    params = {"dim": dim, "n_layers": layers, "n_heads": heads, "multiple_of": multiple,
              "norm_eps": 1e-5, "vocab_size": -1}  # fmt: skip
    if kv_heads:
        params |= {"n_kv_heads": kv_heads, "ffn_dim_multiplier": multiplier}
    config = from_meta(params, vocab_size=32000)
    assert config.ffn_dim == hidden
    assert config.n_kv_heads == (kv_heads or heads)
    assert config.head_dim == dim // heads
    assert config.vocab_size == 32000
    assert config.rope_style == "interleaved"
    assert feed_forward_width(dim, multiple, multiplier) == hidden


def test_defaults():
    config = from_meta({"dim": 64, "n_heads": 4, "n_layers": 2, "vocab_size": 10})
    assert config.norm_eps == 1e-5
    assert config.rope_theta == 10000.0
    assert config.ffn_dim == 256  # multiple_of is 256 if absent
    assert config.max_context == 2048
    assert config.rope_scaling == RopeScaling()


def test_scaled_rope_has_metas_numbers():
    config = from_meta(BASE | {"vocab_size": 10, "rope_theta": 5e5, "use_scaled_rope": True})
    assert config.rope_scaling == RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)
    assert config.max_context == 131072


def test_scaled_rope_may_choose_the_factor_of_3_2():
    params = BASE | {"vocab_size": 10, "use_scaled_rope": True, "rope_scaling_factor": 32}
    assert from_meta(params).rope_scaling.factor == 32


def test_tensors_decide_where_the_file_is_silent_or_wrong():
    config = from_meta(BASE, vocab_size=77, ffn_dim=200, n_kv_heads=2, llama2=True)
    assert (config.vocab_size, config.ffn_dim, config.n_kv_heads) == (77, 200, 2)
    assert config.max_context == 4096


def test_nested_under_model():
    assert from_meta({"model": BASE}, vocab_size=5).dim == 64


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dim": None}, ["'dim'", "missing"]),
        ({"dim": 66}, ["'n_heads'", "66"]),
        ({"n_heads": 0}, ["'n_heads'"]),
        ({"n_layers": "2"}, ["'n_layers'", "integer"]),
        ({"multiple_of": 0}, ["'multiple_of'"]),
        ({"ffn_dim_multiplier": -1}, ["'ffn_dim_multiplier'"]),
        ({"ffn_dim_multiplier": 1e308}, ["'ffn_dim_multiplier'"]),
        ({"use_scaled_rope": "yes"}, ["'use_scaled_rope'"]),
        ({"n_kv_heads": 3}, ["cannot share"]),
        ({"norm_eps": float("inf")}, ["norm_eps"]),
        ({"norm_eps": 1e308}, ["norm_eps", "float32"]),
    ],
    ids=str,
)
def test_refused(changes, words):
    with pytest.raises(ConfigError) as caught:
        from_meta(BASE | changes, source="p.json", vocab_size=10)
    for word in ["p.json", *words]:
        assert word in str(caught.value)


def test_vocabulary_of_minus_one_needs_an_embedding():
    with pytest.raises(ConfigError, match="vocab_size"):
        from_meta(BASE | {"vocab_size": -1})
