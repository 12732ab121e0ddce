"""A model takes exactly its tensors: anything else is refused by name, with both shapes."""

import gc

import numpy as np
import pytest

from llama_rt import _native
from llama_rt.errors import CheckpointError, ConfigError, DTypeError, LlamaRtError, ShapeError
from native_models import build_model, build_runner, cpu, logits, stored_as
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
