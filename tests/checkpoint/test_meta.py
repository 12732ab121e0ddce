"""Meta folders: any number of shards, both ways to split the embedding, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from formats.stored import assert_same, values
from llama_rt.checkpoint import open_checkpoint
from llama_rt.errors import CheckpointError, ConfigError
from reference.checkpoints import write_meta
from reference.model import Config, random_weights

CONFIG = Config(n_heads=8, n_kv_heads=4, head_dim=8)


@pytest.fixture
def weights():
    return random_weights(CONFIG, seed=5)


@pytest.mark.parametrize("shards", [1, 2, 4])
@pytest.mark.parametrize("axis", [0, 1])
def test_shards_merge_to_the_whole(tmp_path, weights, shards, axis):
    write_meta(tmp_path, CONFIG, weights, shards=shards, embedding_axis=axis)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.kind == "meta"
    assert_same(checkpoint, weights)
    assert checkpoint.config.rope_style == "interleaved"
    assert len(checkpoint.files) == shards


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_other_types(tmp_path, weights, dtype):
    def rounded(value):
        return torch.from_numpy(value).to(getattr(torch, dtype)).float().numpy()

    write_meta(tmp_path, CONFIG, weights, shards=2, dtype=dtype)
    assert_same(open_checkpoint(tmp_path), weights, rounded=rounded)


def test_configuration_comes_from_params_and_shapes(tmp_path, weights):
    write_meta(tmp_path, CONFIG, weights, shards=2)
    config = open_checkpoint(tmp_path).config
    for name in ("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "ffn_dim", "vocab_size",
                 "norm_eps", "rope_theta"):  # fmt: skip
        assert getattr(config, name) == getattr(CONFIG, name), name


def test_streaming_order(tmp_path, weights):
    write_meta(tmp_path, CONFIG, weights)
    names = list(open_checkpoint(tmp_path).tensors)
    assert names[0] == "tok_embeddings.weight"
    assert names[-2:] == ["norm.weight", "output.weight"]
    assert names.index("layers.0.ffn_norm.weight") < names.index("layers.1.attention.wq.weight")


def test_unsharded_tensors_are_views_of_the_file(tmp_path, weights):
    write_meta(tmp_path, CONFIG, weights)
    raw = open_checkpoint(tmp_path).tensors["layers.1.attention.wv.weight"].read()
    assert not raw.flags.owndata
    assert not raw.flags.writeable


def test_params_nested_under_model(tmp_path, weights):
    write_meta(tmp_path, CONFIG, weights, shards=2)
    params = tmp_path / "params.json"
    params.write_text(json.dumps({"model": json.loads(params.read_text())}))
    assert_same(open_checkpoint(tmp_path), weights)


def test_repeated_key_value_heads(tmp_path):
    """More shards than key/value heads: each shard has a copy of one (as MP16 of 405B)."""
    config = replace(CONFIG, n_kv_heads=2)
    weights = random_weights(config, seed=1)
    doubled = dict(weights)
    for name, value in weights.items():
        if name.endswith(("wk.weight", "wv.weight")):
            heads = value.reshape(2, 8, -1)
            doubled[name] = np.repeat(heads, 2, axis=0).reshape(32, -1)
    write_meta(tmp_path, config, doubled, shards=4)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config.n_kv_heads == 4
    assert_same(checkpoint, doubled)


@pytest.mark.parametrize(
    ("change", "context"),
    [
        ({}, 2048),
        ({"rope_theta": 500000.0}, 8192),
        ({"rope_theta": 500000.0, "use_scaled_rope": True}, 131072),
        ({"rope_theta": 1000000.0}, 16384),
    ],
)
def test_context_follows_the_release(tmp_path, change, context):
    config = replace(CONFIG, n_kv_heads=8)
    write_meta(tmp_path, config, random_weights(config, seed=1))
    state = torch.load(tmp_path / "consolidated.00.pth")
    del state["rope.freqs"]
    torch.save(state, tmp_path / "consolidated.00.pth")
    params = tmp_path / "params.json"
    params.write_text(json.dumps(json.loads(params.read_text()) | change))
    assert open_checkpoint(tmp_path).config.max_context == context


def test_llama_2_is_told_by_its_rotary_buffer(tmp_path, weights):
    write_meta(tmp_path, CONFIG, weights)
    assert open_checkpoint(tmp_path).config.max_context == 4096


def test_biases_are_taken_where_they_are(tmp_path, weights):
    write_meta(tmp_path, CONFIG, weights)
    state = torch.load(tmp_path / "consolidated.00.pth")
    state["layers.1.attention.wq.bias"] = torch.arange(64, dtype=torch.float16)
    torch.save(state, tmp_path / "consolidated.00.pth")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config.attention_bias
    assert not checkpoint.config.mlp_bias
    bias = np.arange(64, dtype=np.float32)
    assert_same(checkpoint, weights | {"layers.1.attention.wq.bias": bias})


def test_missing_shard_is_named(tmp_path, weights):
    write_meta(tmp_path, CONFIG, weights, shards=4)
    (tmp_path / "consolidated.01.pth").unlink()
    with pytest.raises(CheckpointError, match=r"consolidated\.01\.pth is missing"):
        open_checkpoint(tmp_path)


def test_last_shard_missing_shows_in_a_shape(tmp_path, weights):
    write_meta(tmp_path, CONFIG, weights, shards=2)
    (tmp_path / "consolidated.01.pth").unlink()
    with pytest.raises(CheckpointError, match="expected"):
        open_checkpoint(tmp_path)


def test_missing_tensor_is_named(tmp_path, weights):
    del weights["layers.1.attention.wo.weight"]
    write_meta(tmp_path, CONFIG, weights)
    with pytest.raises(CheckpointError, match=r"missing tensors: layers\.1\.attention\.wo\.weight"):
        open_checkpoint(tmp_path)


def test_tensor_missing_in_one_shard(tmp_path, weights):
    write_meta(tmp_path, CONFIG, weights, shards=2)
    state = torch.load(tmp_path / "consolidated.01.pth")
    del state["layers.0.feed_forward.w3.weight"]
    torch.save(state, tmp_path / "consolidated.01.pth")
    with pytest.raises(CheckpointError, match=r"w3\.weight"):
        open_checkpoint(tmp_path)


def test_missing_output_is_an_error(tmp_path, weights):
    del weights["output.weight"]
    write_meta(tmp_path, CONFIG, weights)
    with pytest.raises(CheckpointError, match=r"output\.weight"):
        open_checkpoint(tmp_path)


def test_wrong_shape_names_the_expected_one(tmp_path, weights):
    weights["layers.1.feed_forward.w1.weight"] = np.zeros((95, 64), np.float32)
    write_meta(tmp_path, CONFIG, weights)
    with pytest.raises(CheckpointError, match=r"w1\.weight.*\[95, 64\], expected \[96, 64\]"):
        open_checkpoint(tmp_path)


def test_double_precision_is_refused_by_name(tmp_path, weights):
    write_meta(tmp_path, CONFIG, weights, dtype="float64")
    with pytest.raises(CheckpointError, match="stored as f64; supported: f32"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"dim": "x"}', "[" * 100000, '{"dim": 64}']
)
def test_damaged_params(tmp_path, weights, text):
    write_meta(tmp_path, CONFIG, weights)
    (tmp_path / "params.json").write_text(text)
    with pytest.raises((ConfigError, CheckpointError), match=r"params\.json"):
        open_checkpoint(tmp_path)


def test_merged_tensors_are_read_again_the_same(tmp_path, weights):
    write_meta(tmp_path, CONFIG, weights, shards=4)
    record = open_checkpoint(tmp_path).tensors["layers.0.feed_forward.w2.weight"]
    assert np.array_equal(values(record), values(record))
