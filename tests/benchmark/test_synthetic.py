"""Synthetic checkpoints: formats decode to a trained model's spread; bytes are reproducible."""

import gguf
import numpy as np
import pytest

from llama_rt.benchmark.synthetic import SHAPES, synthetic_checkpoint
from llama_rt.config import ModelConfig
from llama_rt.convert import formats
from llama_rt.errors import ConfigError
from llama_rt.formats.dtypes import STORED

SMALL = ModelConfig(
    dim=512, n_layers=8, n_heads=4, n_kv_heads=2, head_dim=128, ffn_dim=768, vocab_size=1000,
    norm_eps=1e-5,
)  # fmt: skip
PLAIN = [row.name for row in STORED.values() if row.runs and row.written]


def decoded(record) -> np.ndarray:
    """Values by the gguf package, an implementation independent of the makers."""
    kind = gguf.GGMLQuantizationType(STORED[record.dtype].gguf_id)
    raw = record.read().reshape(record.shape[0], -1)
    return gguf.quants.dequantize(raw, kind).reshape(record.shape)


@pytest.mark.parametrize("format", PLAIN)
def test_weights_have_a_trained_models_spread(format):
    checkpoint = synthetic_checkpoint(SMALL, format, seed=3)
    for name in ("tok_embeddings.weight", "layers.1.attention.wk.weight", "output.weight"):
        record = checkpoint.tensors[name]
        assert record.dtype == format
        values = decoded(record)
        assert np.isfinite(values).all()
        assert 0.015 < values.std() < 0.027
        assert abs(values.mean()) < 0.002
        assert np.abs(values).max() < 0.3


@pytest.mark.parametrize("format", PLAIN)
def test_no_block_is_degenerate(format):
    values = decoded(synthetic_checkpoint(SMALL, format).tensors["layers.0.attention.wq.weight"])
    groups = values.reshape(-1, 32)
    assert (groups.std(axis=1) > 0.0005).all()


def test_norms_are_near_one_in_f32():
    checkpoint = synthetic_checkpoint(SMALL, "q4_0")
    for name in ("norm.weight", "layers.0.attention_norm.weight", "layers.7.ffn_norm.weight"):
        record = checkpoint.tensors[name]
        values = record.read().view(np.float32)
        assert record.dtype == "f32"
        assert values.shape == (512,)
        assert abs(values - 1).max() < 0.2


def test_same_seed_same_bytes_other_seed_other_bytes():
    name = "layers.2.feed_forward.w1.weight"
    first = synthetic_checkpoint(SMALL, "q4_k", seed=1).tensors[name].read()
    again = synthetic_checkpoint(SMALL, "q4_k", seed=1).tensors[name].read()
    other = synthetic_checkpoint(SMALL, "q4_k", seed=2).tensors[name].read()
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_tensors_of_one_model_differ():
    tensors = synthetic_checkpoint(SMALL, "q8_0").tensors
    first = tensors["layers.0.feed_forward.w1.weight"].read()
    assert not np.array_equal(first, tensors["layers.1.feed_forward.w1.weight"].read())


def test_recipe_uses_the_richer_type_where_llama_cpp_does():
    tensors = synthetic_checkpoint(SMALL, "q4_k_m").tensors
    assert tensors["output.weight"].dtype == "q6_k"
    assert tensors["tok_embeddings.weight"].dtype == "q4_k"
    down = [tensors[f"layers.{i}.feed_forward.w2.weight"].dtype for i in range(8)]
    assert down == ["q6_k", "q4_k", "q4_k", "q6_k", "q4_k", "q4_k", "q6_k", "q6_k"]
    assert {tensors[f"layers.{i}.attention.wq.weight"].dtype for i in range(8)} == {"q4_k"}


def test_rows_that_are_no_whole_blocks_fall_back():
    odd = ModelConfig(
        dim=96, n_layers=1, n_heads=3, n_kv_heads=3, head_dim=32, ffn_dim=50, vocab_size=10,
        norm_eps=1e-5,
    )  # fmt: skip
    tensors = synthetic_checkpoint(odd, "q4_k").tensors
    assert tensors["layers.0.attention.wq.weight"].dtype == "q5_0"
    assert tensors["layers.0.feed_forward.w2.weight"].dtype == "f16"


@pytest.mark.parametrize(
    ("shape", "parameters"),
    [("7B", 6_738_415_616), ("13B", 13_015_864_320), ("33B", 32_528_943_616),
     ("65B", 65_285_660_672)],
)  # fmt: skip
def test_shapes_have_the_published_parameter_counts(shape, parameters):
    assert synthetic_checkpoint(shape, "q4_0").parameters == parameters


def test_tied_model_has_no_output():
    checkpoint = synthetic_checkpoint(SMALL, "f16", tie=True)
    assert "output.weight" not in checkpoint.tensors
    assert checkpoint.config.tie_embeddings


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="8x4096"):
        synthetic_checkpoint("9B")
    with pytest.raises(ConfigError, match="q4_k_m"):
        synthetic_checkpoint("7B", "q4_7")
    assert set(SHAPES) == {"7B", "13B", "33B", "65B", "8x4096"}
    assert "q6_k" in formats()
