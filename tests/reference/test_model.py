"""The reference model against transformers in float64, so that it can be trusted elsewhere."""

from dataclasses import replace

import numpy as np
import pytest

from reference.cases import GRAPHS
from reference.checkpoints import hf_logits, hf_model, to_halves
from reference.model import (
    Config,
    Rope,
    forward,
    inverse_frequencies,
    random_weights,
    relative_error,
)


@pytest.mark.parametrize("name", GRAPHS)
def test_agrees_with_transformers(name):
    config = GRAPHS[name]
    weights = random_weights(config, seed=3)
    ids = np.random.default_rng(4).integers(0, config.vocab_size, 90).tolist()
    expected = hf_logits(hf_model(config, weights), ids)
    # transformers keeps the rotary angles in float32 even in a float64 model.
    assert relative_error(forward(config, weights, ids), expected) < 2e-5


def test_both_rotary_orders_are_the_same_model():
    config = Config(attention_bias=True)
    weights = random_weights(config, seed=5)
    halves = replace(config, rope_style="halves")
    ids = list(range(30))
    got = forward(halves, to_halves(config, weights), ids)
    np.testing.assert_allclose(got, forward(config, weights, ids), rtol=1e-9, atol=1e-9)


def test_divisors_divide_frequencies():
    config = Config()
    scaled = replace(config, rope=Rope("llama3", factor=8.0, original_context=64))
    divisors = inverse_frequencies(config) / inverse_frequencies(scaled)
    assert divisors.min() == 1.0
    assert divisors.max() == pytest.approx(8.0)
    weights = random_weights(config, seed=6)
    got = forward(config, {**weights, "rope.divisors": divisors}, [5, 6, 7, 8])
    np.testing.assert_allclose(got, forward(scaled, weights, [5, 6, 7, 8]), rtol=1e-9, atol=1e-9)


def test_llama3_bands_have_the_published_counts():
    """Head width 128, theta 500000: 29 kept, 6 interpolated, 29 divided (width 64: 15, 3, 14)."""
    for width, counts in ((128, (29, 6, 29)), (64, (15, 3, 14))):
        rope = Rope("llama3", factor=8.0, original_context=8192)
        config = Config(head_dim=width, rope_theta=5e5, rope=rope)
        ratio = inverse_frequencies(replace(config, rope=Rope())) / inverse_frequencies(config)
        kept, divided = np.isclose(ratio, 1).sum(), np.isclose(ratio, 8).sum()
        assert (kept, len(ratio) - kept - divided, divided) == counts
