"""What the numbers must mean, whoever computes them: distances, causality, cache rounding."""

from functools import cache

import numpy as np
import pytest

from llama_rt import _native
from native_models import build_runner, cpu, logits, stored_as
from reference.model import Config, Rope, forward, random_weights, relative_error, rope_tables

ISA_LEVELS = _native.cpu_info().tiers
IDS = np.random.default_rng(6).integers(0, 512, 120).tolist()


@pytest.mark.parametrize("style", ["interleaved", "halves"])
@pytest.mark.parametrize("isa", ISA_LEVELS)
def test_rotated_products_depend_on_distance_only(isa, style):
    config = Config(head_dim=64)
    cos, sin = (t.astype(np.float32) for t in rope_tables(config, 2100))
    rng = np.random.default_rng(1)
    q, k = (rng.standard_normal((1, 1, 64)).astype(np.float32) for _ in range(2))
    scale = np.linalg.norm(q) * np.linalg.norm(k)

    def score(m, n):
        at = [np.array([position], np.int32) for position in (m, n)]
        a = _native.op_rope(cpu(isa), q, at[0], cos, sin, style)
        b = _native.op_rope(cpu(isa), k, at[1], cos, sin, style)
        return float(a.ravel().astype(float) @ b.ravel().astype(float))

    for distance in (0, 1, 17, 900):
        scores = [score(n + distance, n) for n in (0, 1, 30, 500, 1100)]
        assert np.ptp(scores) < 1e-6 * scale
    assert abs(score(40, 10) - score(40, 11)) > 1e-4 * scale


@pytest.mark.parametrize("isa", ISA_LEVELS)
def test_a_windowed_layer_forgets_where_it_is(isa):
    """One layer that sees 8 tokens gives them the same logits wherever they stand."""
    config = Config(n_layers=1, sliding_window=8)
    runner = build_runner(config, random_weights(config, seed=9), isa=isa)
    tail = IDS[-8:]
    near = logits(runner, tail)[-1]
    for before in (1, 40, 100):
        far = logits(runner, [*IDS[:before], *tail])[-1]
        assert relative_error(far, near) < 1e-4
    assert relative_error(logits(runner, [*IDS[:5], *tail[1:]])[-1], near) > 1e-3


@pytest.mark.parametrize("isa", ISA_LEVELS)
def test_later_tokens_do_not_reach_back(isa):
    config = Config()
    runner = build_runner(config, random_weights(config, seed=9), isa=isa)
    whole = logits(runner, IDS)
    np.testing.assert_array_equal(logits(runner, IDS[:60]), whole[:60])
    np.testing.assert_array_equal(logits(runner, [*IDS[:60], 5, 6, 7])[:60], whole[:60])


CACHED = Config(dim=256, n_heads=8, n_kv_heads=2, head_dim=32, ffn_dim=256, n_layers=3)


@cache
def cached():
    weights = random_weights(CACHED, seed=10)
    return weights, forward(CACHED, weights, IDS)


@pytest.mark.parametrize("isa", ISA_LEVELS)
@pytest.mark.parametrize(
    ("kv_dtype", "bound"), [("f32", 2e-5), ("f16", 2e-3), ("bf16", 1.5e-2), ("q8_0", 2.5e-2)]
)
def test_cache_types_stay_within_their_rounding(isa, kv_dtype, bound):
    weights, expected = cached()
    got = logits(build_runner(CACHED, weights, isa=isa, kv_dtype=kv_dtype), IDS)
    assert relative_error(got, expected) < bound


def test_cache_types_cost_what_they_say():
    weights, _ = cached()
    held = {}
    for kv_dtype in ("f32", "f16", "bf16", "q8_0"):
        runner = build_runner(CACHED, weights, kv_dtype=kv_dtype)
        runner.forward([runner.create()], [np.array(IDS, np.int32)], outputs="none")
        held[kv_dtype] = runner.memory()["kv_cache"]
    assert held["f16"] == held["bf16"] <= 0.55 * held["f32"]
    assert held["q8_0"] < 0.65 * held["f16"]


@pytest.mark.parametrize("dtype", ["q4_0", "q5_k", "q8_0", "bf16", "f16"])
def test_isa_levels_agree_with_each_other(dtype):
    config = Config(dim=256, n_heads=4, head_dim=64, ffn_dim=256)
    weights, stored = stored_as(config, dtype, seed=4)
    results = [logits(build_runner(config, weights, stored=stored, isa=t), IDS) for t in ISA_LEVELS]
    for other in results[1:]:
        assert relative_error(other, results[0]) < 2.5e-2


def test_linear_scaling_stretches_positions():
    """Factor 2 puts position 2m where position m was."""
    config = Config(n_layers=1, rope=Rope("linear", factor=2.0))
    plain = Config(n_layers=1)
    cos, sin = _native.rope_table(config.native_options(), 100)
    plain_cos, plain_sin = _native.rope_table(plain.native_options(), 50)
    np.testing.assert_allclose(cos[::2], plain_cos, atol=2e-5)
    np.testing.assert_allclose(sin[::2], plain_sin, atol=2e-5)
