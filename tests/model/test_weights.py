"""A model takes exactly its tensors: anything else is refused by name, with both shapes."""

import gc

import numpy as np
import pytest

from llama_rt import _native
from llama_rt.errors import CheckpointError, ConfigError, DTypeError, LlamaRtError, ShapeError
from native_models import build_model, build_runner, cpu, logits, stored_as
from reference.blocks import random_bytes
from reference.model import Config, forward, random_weights, relative_error

CONFIG = Config()


def empty_model(**changes):
    return _native.Model(cpu(), **{**CONFIG.native_options(), **changes})


@pytest.fixture(scope="module")
def weights():
    return random_weights(CONFIG, seed=2)


def test_unknown_names_are_refused():
    model = empty_model()
    for name in (
        "layers.2.ffn_norm.weight",
        "layers.-1.ffn_norm.weight",
        "layers.0.attention.wq.scale",
        "model.norm.weight",
        "",
        "layers.99999999999999999999.ffn_norm.weight",
    ):
        with pytest.raises(CheckpointError):
            model.add(name, np.ones(64, np.float32), "f32", (64,))


def test_pieces_of_a_pool_make_the_matrices(weights):
    """As if their bytes had been joined before: pieces of every length, some in part."""
    rng = np.random.default_rng(8)
    pool = random_bytes("q8_0", 1, 90 * 32, seed=5, spread=0.5).reshape(-1)
    whole, pieced = empty_model(), empty_model()
    for name, value in weights.items():
        if value.ndim == 1:
            for model in (whole, pieced):
                model.add(name, value, "f32", value.shape)
            continue
        starts, data = [], np.empty(0, np.uint8)
        while len(data) < value.size // 32 * 34:
            starts.append(int(rng.integers(90)))
            data = np.append(data, pool[starts[-1] * 34 :])
        data = np.ascontiguousarray(data[: value.size // 32 * 34])
        whole.add(name, data, "q8_0", value.shape)
        pieced.add_pieces(name, pool, starts, "q8_0", value.shape)
    results = []
    for model in (whole, pieced):
        model.finish()
        runner = _native.Runner(model, n_ctx=64, cache_tokens=256)
        results.append(logits(runner, [1, 5, 9]))
    np.testing.assert_array_equal(*results)
    assert whole.weight_bytes == pieced.weight_bytes


def test_pieces_that_do_not_make_a_matrix_are_refused():
    model, pool = empty_model(), np.zeros(34 * 64, np.uint8)
    name, shape = "layers.0.attention.wq.weight", (64, 64)
    for starts in ([-1, 0, 0], [64, 0, 0], [2**60, 0, 0]):
        with pytest.raises(ShapeError, match=f"{name}.* of 64"):
            model.add_pieces(name, pool, starts, "q8_0", shape)
    with pytest.raises(ShapeError, match=r"4352 bytes, its pieces have 4318"):
        model.add_pieces(name, pool, [0, 1], "q8_0", shape)
    with pytest.raises(ShapeError, match="pool"):
        model.add_pieces(name, pool[1:], [0, 0], "q8_0", shape)
    with pytest.raises(ShapeError, match="must be"):
        model.add_pieces(name, pool, [0], "q8_0", (32, 64))
    with pytest.raises(ShapeError, match="matrix"):
        model.add_pieces("norm.weight", pool, [0], "q8_0", (64,))
    model.add_pieces(name, pool, [0, 0], "q8_0", shape)
    with pytest.raises(CheckpointError, match=name):
        model.add_pieces(name, pool, [0, 0], "q8_0", shape)


def test_twice_is_refused(weights):
    model = empty_model()
    name = "layers.1.attention.wk.weight"
    model.add(name, weights[name], "f32", weights[name].shape)
    with pytest.raises(CheckpointError, match=name):
        model.add(name, weights[name], "f32", weights[name].shape)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("layers.0.attention.wq.weight", (32, 64)),
        ("layers.0.attention.wk.weight", (64, 64)),
        ("layers.0.feed_forward.w2.weight", (96, 64)),
        ("layers.0.attention_norm.weight", (63,)),
        ("layers.0.attention_norm.weight", (64, 1)),
        ("tok_embeddings.weight", (511, 64)),
        ("layers.0.attention.wk.bias", (64,)),
        ("norm.weight", (1, 64)),
        ("norm.weight", ()),
        ("norm.weight", (-64,)),
        ("rope.divisors", (16,)),
    ],
)
def test_other_shapes_are_refused(name, shape):
    data = np.ones(max(1, abs(int(np.prod(shape)))), np.float32)
    with pytest.raises(ShapeError, match=name):
        empty_model().add(name, data, "f32", shape)


def test_byte_counts_must_fit(weights):
    model = empty_model()
    value = weights["norm.weight"]
    for data in (value[:-1], np.append(value, value), value[:0]):
        with pytest.raises(ShapeError, match=r"norm\.weight"):
            model.add("norm.weight", data, "f32", (64,))
    with pytest.raises(DTypeError, match="q9_z"):
        model.add("norm.weight", value, "q9_z", (64,))
    with pytest.raises(LlamaRtError, match=r"w2"):
        # 96 columns are no whole number of 256-blocks.
        model.add("layers.0.feed_forward.w2.weight", bytes(144 * 24), "q4_k", (64, 96))


def test_missing_tensors_are_named(weights):
    for missing in ("norm.weight", "layers.1.feed_forward.w3.weight", "tok_embeddings.weight"):
        model = empty_model()
        for name, value in weights.items():
            if name != missing:
                model.add(name, value, "f32", value.shape)
        with pytest.raises(CheckpointError, match=missing.replace(".", r"\.")):
            model.finish()


def test_output_is_tied_when_it_never_came(weights):
    tied = {n: w for n, w in weights.items() if n != "output.weight"}
    ids = list(range(20))
    got = logits(build_runner(CONFIG, tied), ids)
    assert relative_error(got, forward(CONFIG, tied, ids)) < 2e-5


@pytest.mark.parametrize("repack", ["never", "auto", "always"])
@pytest.mark.parametrize("dtype", ["q4_0", "q6_k", "bf16"])
def test_tied_tables_in_packed_models(dtype, repack):
    """The one table serves lookups and the output product, also when packing rearranges it."""
    config = Config(dim=256, head_dim=64, ffn_dim=256, tied=True, vocab_size=300)
    weights, stored = stored_as(config, dtype, seed=6)
    ids = list(range(0, 300, 10))
    for isa in _native.cpu_info().tiers:
        runner = build_runner(config, weights, stored=stored, isa=isa, repack=repack)
        assert relative_error(logits(runner, ids), forward(config, weights, ids)) < 2.5e-2


def test_unfinished_models_do_not_run(weights):
    model = empty_model()
    for name, value in weights.items():
        model.add(name, value, "f32", value.shape)
    with pytest.raises(LlamaRtError):
        _native.Runner(model, n_ctx=16)


def test_finished_models_take_nothing_more(weights):
    model = build_model(CONFIG, weights)
    with pytest.raises(LlamaRtError):
        model.add("layers.0.attention.wq.bias", np.ones(64, np.float32), "f32", (64,))


def test_buffers_live_as_long_as_they_are_used(weights):
    ids = list(range(30))
    expected = logits(build_runner(CONFIG, weights, repack="never"), ids)
    model = empty_model(repack="never")
    for name, value in weights.items():
        model.add(name, value.copy(), "f32", value.shape)
    model.finish()
    runner = _native.Runner(model, n_ctx=64, kv_dtype="f32")
    del model
    gc.collect()
    [np.full(value.shape, np.nan, np.float32) for value in weights.values()]
    np.testing.assert_array_equal(logits(runner, ids), expected)


def test_bytes_are_accounted():
    config = Config(dim=256, head_dim=64, ffn_dim=512)
    weights, stored = stored_as(config, "q4_0", seed=3)
    for repack in ("never", "always"):
        model = build_model(config, weights, stored=stored, repack=repack)
        every = sum(
            stored[n][1].nbytes if n in stored else value.nbytes for n, value in weights.items()
        )
        streamed = every - stored["tok_embeddings.weight"][1].nbytes
        assert abs(model.streamed_bytes - streamed) <= 0.01 * streamed
        assert 0.99 * every <= model.weight_bytes <= 2.5 * every


@pytest.mark.parametrize(
    "change",
    [
        {"dim": 0},
        {"n_layers": -1},
        {"n_kv_heads": 3},
        {"n_kv_heads": 0},
        {"head_dim": 7},
        {"vocab_size": 0},
        {"ffn_dim": -5},
        {"norm_eps": float("nan")},
        {"norm_eps": -1.0},
        {"rope_theta": 0.0},
        {"rope_style": "spiral"},
        {"rope_scaling": "longrope"},
        {"rope_scaling": "linear", "rope_factor": 0.0},
        {"sliding_window": -1},
        {"repack": "sometimes"},
        {"dim": 2**40},
        {"n_layers": 2**31},
    ],
    ids=str,
)
def test_impossible_sizes_are_refused(change):
    with pytest.raises((ConfigError, TypeError, OverflowError)):
        empty_model(**change)
