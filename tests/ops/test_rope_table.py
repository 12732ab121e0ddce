"""Native rope tables against float64 for every scaling rule."""

import numpy as np
import pytest

from llama_rt import _native
from reference.cases import GRAPHS
from reference.model import Config, Rope, rope_tables

MORE = {
    "width-128-llama3.1": Config(
        head_dim=128, rope_theta=5e5, rope=Rope("llama3", factor=8.0, original_context=8192)
    ),
    "width-64-llama3.2": Config(
        head_dim=64, rope_theta=5e5, rope=Rope("llama3", factor=32.0, original_context=8192)
    ),
    "yarn-128k": Config(
        head_dim=128,
        rope=Rope("yarn", factor=16.0, original_context=4096, attention_factor=1.2772588722239782),
    ),
    "yarn-betas": Config(
        head_dim=64,
        rope=Rope("yarn", factor=8.0, original_context=2048, beta_fast=64.0, beta_slow=2.0),
    ),
    "yarn-corners-meet": Config(
        head_dim=8, rope=Rope("yarn", factor=4.0, original_context=6, beta_fast=1.0)
    ),
    "code-llama": Config(head_dim=128, rope_theta=1e6),
}


@pytest.mark.parametrize("name", [*GRAPHS, *MORE])
def test_tables(name):
    """An angle computed in float32 is off by two roundings of itself: 2^-22 of it, c = 1."""
    config = {**GRAPHS, **MORE}[name]
    positions = 4096
    cos, sin = _native.rope_table(config.native_options(), positions)
    expected_cos, expected_sin = rope_tables(config, positions)
    assert cos.dtype == sin.dtype == np.float32
    allowed = 2.0**-22 * (1 + np.arange(positions))[:, None] * config.rope.attention_factor
    assert (np.abs(cos - expected_cos) <= allowed).all()
    assert (np.abs(sin - expected_sin) <= allowed).all()
