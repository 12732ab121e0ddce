"""The native forward pass against the float64 model: every graph, level, type and packing."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from llama_rt import _native
from native_models import build_runner, logits, rounded_to, stored_as
from reference.cases import GRAPHS, random_config
from reference.checkpoints import to_halves
from reference.model import (
    Config,
    Rope,
    forward,
    hidden_states,
    inverse_frequencies,
    random_weights,
    relative_error,
)

ISA_LEVELS = _native.cpu_info().tiers
DTYPES = [row.name for row in _native.dtypes()]
# Float32 throughout: a few hundred roundings of 6e-8 in a row.
EXACT = 2e-5
# What the project promises for each stored type, with a cache of halves.
PROMISED = {"f32": 2e-3, "f16": 2e-3, "bf16": 1.5e-2}
IDS = np.random.default_rng(9).integers(0, 300, 75).tolist()
BLOCKY = Config(dim=256, n_heads=4, n_kv_heads=2, head_dim=64, ffn_dim=512, vocab_size=320)


@cache
def graph(name):
    config = GRAPHS[name]
    weights = random_weights(config, seed=3)
    return config, weights, forward(config, weights, IDS)


@pytest.mark.parametrize("isa", ISA_LEVELS)
@pytest.mark.parametrize("name", GRAPHS)
def test_graphs(name, isa):
    config, weights, expected = graph(name)
    got = logits(build_runner(config, weights, isa=isa), IDS)
    assert got.shape == expected.shape
    assert relative_error(got, expected) < EXACT


@pytest.mark.parametrize("name", ["plain", "biases", "llama3", "window"])
def test_the_other_rotary_order(name):
    config, weights, expected = graph(name)
    halves = replace(config, rope_style="halves")
    got = logits(build_runner(halves, to_halves(config, weights)), IDS)
    assert relative_error(got, expected) < EXACT


@pytest.mark.parametrize("seed", range(30))
def test_random_graphs(seed):
    """Any sizes and options, each on some ISA level and packing, in an element type."""
    config = random_config(seed)
    dtype = ("f32", "f16", "bf16")[seed % 3]
    values, stored = rounded_to(random_weights(config, seed), dtype)
    options = {
        "isa": ISA_LEVELS[seed % len(ISA_LEVELS)],
        "repack": ("never", "always")[seed // 3 % 2],
    }
    runner = build_runner(config, values, stored=stored, threads=1 + seed % 3, **options)
    expected = forward(config, values, IDS)
    bound = 1.5e-2 if dtype == "bf16" else 1e-4
    assert relative_error(logits(runner, IDS), expected) < bound


@cache
def blocky(dtype):
    weights, stored = stored_as(BLOCKY, dtype, seed=5)
    return weights, stored, forward(BLOCKY, weights, IDS[:40])


@pytest.mark.parametrize("repack", ["never", "always"])
@pytest.mark.parametrize("isa", ISA_LEVELS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_stored_types(dtype, isa, repack):
    weights, stored, expected = blocky(dtype)
    runner = build_runner(BLOCKY, weights, stored=stored, isa=isa, repack=repack, kv_dtype="f16")
    assert relative_error(logits(runner, IDS[:40]), expected) < PROMISED.get(dtype, 2.5e-2)


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32"])
def test_norms_and_biases_in_the_files_type(dtype):
    """Hugging Face files keep one type for everything, vectors included."""
    config = GRAPHS["biases"]
    values, stored = rounded_to(random_weights(config, seed=4), dtype)
    got = logits(build_runner(config, values, stored=stored), IDS)
    assert relative_error(got, forward(config, values, IDS)) < PROMISED[dtype]


def test_types_mixed_in_one_model():
    """As in files that llama.cpp quantises: several types among a layer's matrices."""
    config = replace(BLOCKY, n_layers=3)
    weights, stored = stored_as(config, "q4_k", seed=1)
    for i, dtype in enumerate(("q6_k", "q8_0", "f16", "bf16", "q5_1", "q3_k", "f32")):
        other, other_stored = stored_as(config, dtype, seed=2)
        for name in list(stored)[i::7]:
            weights[name], stored[name] = other[name], other_stored[name]
    expected = forward(config, weights, IDS[:30])
    for isa in ISA_LEVELS:
        runner = build_runner(config, weights, stored=stored, isa=isa, kv_dtype="f16")
        assert relative_error(logits(runner, IDS[:30]), expected) < 2.5e-2


def test_rope_divisors():
    """GGUF stores llama3 scaling as divisors of the frequencies."""
    config, weights, expected = graph("llama3")
    plain = replace(config, rope=Rope())
    divisors = inverse_frequencies(plain) / inverse_frequencies(config)
    with_divisors = {"rope.divisors": divisors.astype(np.float32), **weights}
    got = logits(build_runner(plain, with_divisors), IDS)
    assert relative_error(got, expected) < EXACT
    without = logits(build_runner(plain, weights), IDS)
    assert relative_error(without, expected) > 1e-3


def test_states_are_the_normed_last_layer():
    config, weights, _ = graph("plain")
    runner = build_runner(config, weights)
    sequence = runner.create()
    tokens = [np.array(IDS, np.int32)]
    states = runner.forward([sequence], tokens, outputs="all", states=True)
    assert states.shape == (len(IDS), config.dim)
    assert relative_error(states, hidden_states(config, weights, IDS)) < EXACT


def test_outputs_select_rows():
    config, weights, expected = graph("plain")
    runner = build_runner(config, weights)
    tokens = np.array(IDS, np.int32)
    everything = runner.forward([runner.create()], [tokens], outputs="all")
    last = runner.forward([runner.create()], [tokens], outputs="last")
    np.testing.assert_array_equal(last, everything[-1:])
    none = runner.forward([runner.create()], [tokens], outputs="none")
    assert none.shape == (0, config.vocab_size)
    assert relative_error(last, expected[-1:]) < EXACT


def test_results_do_not_change_under_the_callers_hands():
    """An array that was returned stays as it was while the runner goes on."""
    config, weights, _ = graph("plain")
    runner = build_runner(config, weights)
    first = logits(runner, IDS[:20])
    kept = first.copy()
    logits(runner, IDS[20:60])
    np.testing.assert_array_equal(first, kept)


def test_long_context_uses_many_pages():
    config = replace(GRAPHS["plain"], n_layers=1, max_context=1024)
    weights = random_weights(config, seed=8)
    ids = np.random.default_rng(1).integers(0, 512, 700).tolist()
    sizes = {"n_ctx": 1024, "max_batch_tokens": 1024}
    for isa in ISA_LEVELS:
        got = logits(build_runner(config, weights, isa=isa, **sizes), ids)
        assert relative_error(got, forward(config, weights, ids)) < EXACT
