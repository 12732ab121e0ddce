"""Hugging Face folders written by transformers: safetensors and pickles, one file and sharded."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from formats.stored import assert_same
from llama_rt.checkpoint import open_checkpoint
from llama_rt.errors import CheckpointError, ConfigError
from reference.checkpoints import to_halves, write_hf
from reference.model import Config, Rope, random_weights

CONFIG = Config()
VARIANTS = {
    "plain": CONFIG,
    "wide heads": replace(CONFIG, n_heads=4, head_dim=32),
    "tied": replace(CONFIG, tied=True),
    "biases": replace(CONFIG, attention_bias=True, mlp_bias=True),
    "window": replace(CONFIG, sliding_window=16),
    "linear": replace(CONFIG, rope=Rope("linear", 4.0)),
    "llama3": replace(CONFIG, rope=Rope("llama3", 8.0, original_context=64), rope_theta=5e5),
    "yarn": replace(CONFIG, rope=Rope("yarn", 4.0, original_context=64, attention_factor=1.1)),
    "odd": Config(dim=50, n_heads=5, n_kv_heads=5, head_dim=10, ffn_dim=33, vocab_size=77),
}


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def folder(tmp_path):
    return write_hf(tmp_path / "model", CONFIG, random_weights(CONFIG, seed=3))


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_variant(tmp_path, config):
    weights = random_weights(config, seed=3)
    checkpoint = open_checkpoint(write_hf(tmp_path, config, weights))
    assert checkpoint.kind == "hf"
    assert_same(checkpoint, to_halves(config, weights))
    read = checkpoint.config
    for name in ("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "ffn_dim", "vocab_size",
                 "norm_eps", "rope_theta", "attention_bias", "mlp_bias"):  # fmt: skip
        assert getattr(read, name) == getattr(config, name), name
    assert read.rope_style == "halves"
    assert read.tie_embeddings == config.tied
    assert (read.sliding_window or 0) == config.sliding_window
    assert read.rope_scaling.kind == config.rope.kind
    assert read.rope_scaling.factor == config.rope.factor
    assert read.rope_scaling.original_context == config.rope.original_context
    assert read.rope_scaling.attention_factor == config.rope.attention_factor


@pytest.mark.parametrize("container", ["safetensors", "bin"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shard", ["1GB", "60KB"])
def test_containers_and_types(tmp_path, container, dtype, shard):
    def rounded(value):
        return torch.from_numpy(value).to(getattr(torch, dtype)).float().numpy()

    weights = random_weights(CONFIG, seed=4)
    write_hf(tmp_path, CONFIG, weights, dtype=dtype, container=container, max_shard_size=shard)
    assert_same(open_checkpoint(tmp_path), to_halves(CONFIG, weights), rounded=rounded)


def test_single_pickle(tmp_path):
    weights = random_weights(CONFIG, seed=4)
    write_hf(tmp_path, CONFIG, weights)
    state = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save({k: torch.from_numpy(v) for k, v in state.items()}, tmp_path / "pytorch_model.bin")
    assert_same(open_checkpoint(tmp_path), to_halves(CONFIG, weights))


def test_single_safetensors_file(folder):
    checkpoint = open_checkpoint(folder / "model.safetensors")
    assert checkpoint.kind == "safetensors"
    assert checkpoint.tokenizer_source == folder
    assert len(checkpoint.tensors) == 21


def test_safetensors_file_without_config(folder):
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"put config\.json next to it"):
        open_checkpoint(folder / "model.safetensors")


def test_config_and_index_paths_stand_for_the_folder(folder):
    assert open_checkpoint(folder / "config.json").path == folder


def test_stored_buffers_are_ignored(folder):
    state = load_file(folder / "model.safetensors")
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(8, np.float16)
    state["model.layers.1.self_attn.masked_bias"] = np.ones(1, np.float32)
    save_file(state, folder / "model.safetensors")
    assert len(open_checkpoint(folder).tensors) == 21


def test_bare_model_without_prefix(folder):
    state = load_file(folder / "model.safetensors")
    state = {name.removeprefix("model."): value for name, value in state.items()}
    save_file(state, folder / "model.safetensors")
    assert len(open_checkpoint(folder).tensors) == 21


def test_tensor_of_another_architecture(folder):
    state = load_file(folder / "model.safetensors")
    state["model.layers.0.self_attn.q_norm.weight"] = np.ones(16, np.float32)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"q_norm\.weight' has no place"):
        open_checkpoint(folder)


def test_more_layers_than_configured(folder):
    change_config(folder, num_hidden_layers=1)
    with pytest.raises(CheckpointError, match=r"beyond the 1 layers"):
        open_checkpoint(folder)


def test_fewer_layers_than_configured(folder):
    change_config(folder, num_hidden_layers=3)
    with pytest.raises(CheckpointError, match=r"missing tensors: model\.layers\.2\."):
        open_checkpoint(folder)


def test_untied_without_output(tmp_path):
    config = replace(CONFIG, tied=True)
    write_hf(tmp_path, config, random_weights(config, seed=1))
    change_config(tmp_path, tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight"):
        open_checkpoint(tmp_path)


def test_biases_that_the_configuration_denies(tmp_path):
    config = replace(CONFIG, attention_bias=True)
    write_hf(tmp_path, config, random_weights(config, seed=1))
    change_config(tmp_path, attention_bias=False)
    with pytest.raises(CheckpointError, match="no bias"):
        open_checkpoint(tmp_path)


def test_vocabulary_of_minus_one(folder):
    change_config(folder, vocab_size=-1)
    assert open_checkpoint(folder).config.vocab_size == 512


def test_wrong_vocabulary_names_both_shapes(folder):
    change_config(folder, vocab_size=513)
    with pytest.raises(CheckpointError, match=r"embed_tokens\.weight.*\[512, 64\].*\[513, 64\]"):
        open_checkpoint(folder)


def test_missing_shard(tmp_path):
    write_hf(tmp_path, CONFIG, random_weights(CONFIG, seed=4), max_shard_size="60KB")
    gone = sorted(tmp_path.glob("model-*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(CheckpointError, match=f"shard '{gone.name}' is missing"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "entry", ["../model.safetensors", "/etc/passwd", "", "..", 5, None, ["x"], "sub/x"]
)
def test_index_cannot_lead_out_of_the_folder(folder, entry):
    index = {"weight_map": {"model.norm.weight": entry}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"not a file name|is missing"):
        open_checkpoint(folder)


def test_index_names_a_tensor_that_is_not_there(folder):
    index = {"weight_map": {"model.other.weight": "model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="the index says that it is there"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "text", ["{}", "[]", "nonsense", '{"weight_map": 3}', '{"weight_map": {}}']
)
def test_damaged_index(folder, text):
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises((CheckpointError, ConfigError), match=r"index\.json"):
        open_checkpoint(folder)


def test_lora_weights_are_called_an_adapter(folder):
    state = {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": np.ones((4, 64))}
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="adapter, not a model"):
        open_checkpoint(folder)


def test_gptq_weights_are_called_by_name(folder):
    state = {"model.layers.0.self_attn.q_proj.qweight": np.ones((4, 64), np.int32)}
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"GPTQ.*no quantization_config"):
        open_checkpoint(folder)


def test_safetensors_come_before_pickles(folder):
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")
    assert open_checkpoint(folder).files == (folder / "model.safetensors",)
