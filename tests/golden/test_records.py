"""What the readers hand over, computed by the float64 model, gives the expected logits.

Loading and arithmetic are measured apart: a case that fails here was misread, one that fails only
in `test_golden.py` was miscomputed.
"""

import numpy as np
import pytest

from golden.make_golden import CASES
from llama_rt.checkpoint import open_checkpoint
from reference.blocks import decode
from reference.model import Config, Rope, forward, relative_error


def described(config) -> Config:
    """The reference's configuration for one that was read from a file."""
    scaling = config.rope_scaling
    rope = Rope(
        "none" if scaling.kind == "dynamic" else scaling.kind,
        factor=scaling.factor,
        low_freq_factor=scaling.low_freq_factor,
        high_freq_factor=scaling.high_freq_factor,
        original_context=scaling.original_context,
        beta_fast=scaling.beta_fast,
        beta_slow=scaling.beta_slow,
        attention_factor=scaling.attention_factor,
        truncate=scaling.truncate,
    )
    return Config(
        dim=config.dim,
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        n_kv_heads=config.n_kv_heads,
        head_dim=config.head_dim,
        ffn_dim=config.ffn_dim,
        vocab_size=config.vocab_size,
        norm_eps=config.norm_eps,
        rope_theta=config.rope_theta,
        rope_style=config.rope_style,
        rope=rope,
        sliding_window=config.sliding_window or 0,
        max_context=config.max_context,
    )


def computed(path, ids):
    """Float64 logits of the records of the checkpoint at `path`."""
    checkpoint = open_checkpoint(path)
    weights = {}
    for name, record in checkpoint.tensors.items():
        assert name == record.name
        data = np.asarray(record.read())
        assert data.dtype == np.uint8
        assert data.nbytes == record.nbytes
        weights[name] = decode(data.reshape(-1), record.dtype).reshape(record.shape)
    return forward(described(checkpoint.config), weights, ids)


@pytest.mark.parametrize("name", CASES)
def test_every_case_is_read_as_it_was_written(golden, name):
    case = golden(name)
    got = computed(case.path, case.ids)
    # What is left is transformers' float32 angles and what a file rounds: epsilon, theta, divisors.
    assert relative_error(got, case.logits) < 5e-5


@pytest.mark.parametrize("seed", range(100, 124))
def test_random_models_are_read_as_transformers_wrote_them(golden, seed):
    case = golden(seed)
    assert relative_error(computed(case.path, case.ids), case.logits) < 5e-5
