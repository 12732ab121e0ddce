"""Whole models on a CUDA device: logits against float64, sequences, batches, recorded steps."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from llama_rt import _native
from llama_rt.api.weights import build_model
from llama_rt.benchmark import synthetic
from llama_rt.config import ModelConfig
from llama_rt.errors import CapacityError
from native_models import cpu, model_on
from reference.blocks import decode, encode
from reference.model import Config, Rope, forward, random_weights, relative_error

CONFIG = Config()
WEIGHTS = random_weights(CONFIG, seed=2)
IDS = [1, 17, 300, 45, 45, 8, 501, 77, 123, 9]
# Relative error of the logits: float32; half-precision cache; bfloat16 inputs; 8-bit weights.
BOUNDS = {"f32": 2e-3, "f16": 2e-3, "bf16": 1.5e-2, "q8_0": 2.5e-2}


KV_DTYPES = ["f32", "f16", "bf16", "q8_0"]


def ids(*values):
    return np.array(values, np.int32)


def stored_as(dtype, weights=WEIGHTS):
    """The matrices as `dtype`, and the weights that they decode to."""
    stored, values = {}, dict(weights)
    for name, value in weights.items():
        if value.ndim == 2:
            data = encode(value, dtype)
            stored[name] = (dtype, data)
            values[name] = decode(data, dtype).reshape(value.shape)
    return stored, values


def runner_of(model, **options):
    return _native.Runner(model, n_ctx=256, cache_tokens=4096, **{"kv_dtype": "f16"} | options)


@pytest.fixture(scope="module")
def model(backend):
    return model_on(backend, CONFIG, WEIGHTS, stored=stored_as("bf16")[0])


def greedy(runner, prompts, steps, **options):
    """Tokens of each prompt's continuation, all prompts as one batch."""
    sequences = [runner.create() for _ in prompts]
    samplers = [
        _native.Sampler(CONFIG.vocab_size, **{"temperature": 0.0} | options) for _ in prompts
    ]
    first = runner.step(sequences, [ids(*p) for p in prompts], samplers)
    tokens = [list(s.tokens) for s in first]
    rest = runner.decode(sequences, [t[-1] for t in tokens], samplers, steps=steps - 1)
    for sequence in sequences:
        runner.release(sequence)
    return [t + list(s.tokens) for t, s in zip(tokens, rest, strict=True)]


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("kv_dtype", ["f32", "f16"])
def test_logits(backend, fast, dtype, kv_dtype):
    stored, values = stored_as(dtype)
    expected = forward(CONFIG, values, IDS)
    for one in (backend, fast):
        runner = runner_of(model_on(one, CONFIG, WEIGHTS, stored=stored), kv_dtype=kv_dtype)
        got = runner.forward([runner.create()], [ids(*IDS)], outputs="all")
        assert relative_error(got, expected) <= BOUNDS[dtype]


@pytest.mark.parametrize(
    "change",
    [
        {"tied": True},
        {"sliding_window": 4},
        {"attention_bias": True, "mlp_bias": True},
        {"rope_style": "halves"},
        {"rope": Rope(kind="llama3", factor=8.0, original_context=32)},
    ],
    ids=["tied", "window", "biases", "halves", "llama3"],
)
def test_variations(backend, change):
    config = replace(CONFIG, **change)
    weights = random_weights(config, seed=5)
    runner = runner_of(model_on(backend, config, weights), kv_dtype="f32")
    got = runner.forward([runner.create()], [ids(*IDS)], outputs="all")
    assert relative_error(got, forward(config, weights, IDS)) <= BOUNDS["f32"]


@pytest.mark.parametrize("style", ["interleaved", "halves"])
@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_heads_that_products_append_to_the_cache(backend, fast, style, kv_dtype):
    """Heads of whole tiles: one token at a time, as a batch, and by primitives (profiling)."""
    config = replace(CONFIG, head_dim=32, rope_style=style, attention_bias=True)
    weights = random_weights(config, seed=6)
    stored, values = stored_as("f16", weights)
    few = IDS[:6]
    expected = forward(config, values, few)
    for one in (backend, fast):
        runner = runner_of(model_on(one, config, weights, stored=stored), kv_dtype=kv_dtype)
        single = runner.create()
        got = [runner.forward([single], [ids(i)])[0] for i in few]
        assert relative_error(np.stack(got), expected) <= BOUNDS[kv_dtype]
        whole = runner.forward([runner.create()], [ids(*few)], outputs="all")
        runner.profile(True)
        plain = runner.forward([runner.create()], [ids(*few)], outputs="all")
        runner.profile(False)
        assert relative_error(whole, plain) <= 1e-2
        if one is backend:
            np.testing.assert_array_equal(np.stack(got), whole)


def test_chunks_and_single_tokens_give_the_same_logits(model):
    runner = runner_of(model)
    whole = runner.forward([runner.create()], [ids(*IDS)], outputs="all")
    sequence = runner.create()
    parts = [IDS[:4], *([i] for i in IDS[4:])]
    got = [runner.forward([sequence], [ids(*p)], outputs="all") for p in parts]
    np.testing.assert_array_equal(np.concatenate(got), whole)


def test_batches_do_not_influence_each_other(model):
    """With `reproducible` a sequence has the same bits alone and with others."""
    runner = runner_of(model)
    prompts = [[1, 2, 3], [9], [4, 5, 6, 7, 8], [300, 301]]
    alone = [runner.forward([runner.create()], [ids(*p)], outputs="all") for p in prompts]
    sequences = [runner.create() for _ in prompts]
    together = runner.forward(sequences, [ids(*p) for p in prompts], outputs="all")
    np.testing.assert_array_equal(together, np.concatenate(alone))


def test_greedy_text_survives_recording(model):
    """The same launches are run, recorded, then replayed: also across a page of the cache."""
    prompts = [list(range(1, 60)), [7, 8, 9], [500]]
    runner = runner_of(model)
    alone = [greedy(runner, [p], 12)[0] for p in prompts]
    assert greedy(runner, prompts, 12) == alone


def test_greedy_text_is_the_cpus(backend):
    """With float32 throughout nothing but the order of sums differs."""
    prompts = [[7, 8, 9], [500]]
    host, device = (
        runner_of(model_on(one, CONFIG, WEIGHTS), kv_dtype="f32") for one in (cpu(), backend)
    )
    assert greedy(device, prompts, 8) == greedy(host, prompts, 8)


def test_sampled_tokens_depend_on_the_seed_alone(model):
    prompts = [[1, 2, 3], [9], [4, 5]]
    runner = runner_of(model)
    options = {"temperature": 1.0, "top_k": 40, "top_p": 0.9, "seed": 11}
    together = greedy(runner, prompts, 6, **options)
    assert [greedy(runner, [p], 6, **options)[0] for p in prompts] == together
    assert greedy(runner, prompts, 6, **options | {"seed": 12}) != together


def one_by_one(runner, prompt, steps, **options):
    """What `greedy` gives, with every token known to the host before it is fed."""
    sequence, tokens, feed = runner.create(), [], prompt
    sampler = _native.Sampler(CONFIG.vocab_size, **{"temperature": 0.0} | options)
    for _ in range(steps):
        [sampled] = runner.step([sequence], [ids(*feed)], [sampler])
        feed = sampled.tokens
        tokens += feed
    runner.release(sequence)
    return tokens


DRAWS = {"temperature": 1.0, "top_p": 0.95, "seed": 4}


@pytest.mark.parametrize("options", [{}, DRAWS], ids=["greedy", "drawn"])
def test_steps_queued_ahead_give_the_same_tokens(model, options):
    prompts = [[1, 2, 3], list(range(1, 60)), [9]]
    runner = runner_of(model)
    expected = [one_by_one(runner, p, 12, **options) for p in prompts]
    assert greedy(runner, prompts, 12, **options) == expected


def test_a_stop_takes_back_the_step_ahead(model):
    """Nothing of it is left: the lengths, and what the same samplers choose when they go on."""
    prompts = [[1, 2, 3], [9]]
    runner = runner_of(model)
    expected = [one_by_one(runner, p, 14, **DRAWS) for p in prompts]
    first = next(i for i in range(5, 12) if expected[0][i] not in expected[0][:i] + expected[1])
    sequences = [runner.create() for _ in prompts]
    options = DRAWS | {"stop_ids": [expected[0][first]]}
    samplers = [_native.Sampler(CONFIG.vocab_size, **options) for _ in prompts]
    tokens = [s.tokens for s in runner.step(sequences, [ids(*p) for p in prompts], samplers)]
    for steps in (100, 13 - first):
        results = runner.decode(sequences, [t[-1] for t in tokens], samplers, steps=steps)
        tokens = [t + s.tokens for t, s in zip(tokens, results, strict=True)]
        assert [runner.length(s) for s in sequences] == [
            len(p) + len(t) - 1 for p, t in zip(prompts, tokens, strict=True)
        ]
        if steps == 100:
            assert [s.stopped for s in results] == [True, False]
            assert [len(t) for t in tokens] == [first + 1] * 2
    assert tokens == expected


def test_a_step_ahead_that_does_not_fit_is_left_out(model):
    runner = _native.Runner(model, n_ctx=16, kv_dtype="f16")
    expected = one_by_one(runner_of(model), [1, 2, 3], 14)
    sequence = runner.create()
    sampler = _native.Sampler(CONFIG.vocab_size, temperature=0.0)
    [sampled] = runner.step([sequence], [ids(1, 2, 3)], [sampler])
    [rest] = runner.decode([sequence], sampled.tokens, [sampler], steps=100)
    assert sampled.tokens + rest.tokens == expected
    assert runner.length(sequence) == 16
    with pytest.raises(CapacityError, match="the context is 16 tokens"):
        runner.decode([sequence], rest.tokens[-1:], [sampler], steps=1)


def test_a_failed_draw_takes_back_the_step_ahead(backend):
    """The step ahead is fed the token that could not be sampled."""
    stored, _ = stored_as("f16")
    clean = runner_of(model_on(backend, CONFIG, WEIGHTS, stored=stored))
    tokens = one_by_one(clean, [1, 2, 3], 8)
    bad = next(i for i in range(3, 8) if tokens[i] not in [1, 2, 3, *tokens[:i]])
    table = WEIGHTS["tok_embeddings.weight"].copy()
    table[tokens[bad]] = np.nan
    stored["tok_embeddings.weight"] = ("f16", encode(table, "f16"))
    runner = runner_of(model_on(backend, CONFIG, WEIGHTS, stored=stored))
    sequence = runner.create()
    sampler = _native.Sampler(CONFIG.vocab_size, temperature=0.0)
    [sampled] = runner.step([sequence], [ids(1, 2, 3)], [sampler])
    [rest] = runner.decode([sequence], sampled.tokens, [sampler], steps=20)
    assert sampled.tokens + rest.tokens == tokens[: bad + 1]
    assert "no token can be sampled" in rest.failure
    assert runner.length(sequence) == 3 + bad + 1


@pytest.mark.parametrize("seconds", [0.0, 0.3])
def test_a_loop_that_is_cancelled_or_out_of_time(model, seconds):
    """Ends soon, with a cache that holds what was fed and nothing of a step ahead."""
    expected = one_by_one(runner_of(model), [1, 2, 3], 6)
    for limit in ("time", "flag"):
        runner = runner_of(model)
        sequence, flag = runner.create(), _native.CancelFlag()
        sampler = _native.Sampler(CONFIG.vocab_size, temperature=0.0)
        [sampled] = runner.step([sequence], [ids(1, 2, 3)], [sampler])
        if limit == "flag":
            timer = threading.Timer(seconds, flag.set)
            timer.start()
        [rest] = runner.decode(
            *([sequence], sampled.tokens, [sampler]),
            steps=250,
            max_seconds=seconds if limit == "time" else 1e9,
            cancel=flag,
        )
        if limit == "flag":
            timer.join()
        tokens = sampled.tokens + rest.tokens
        assert tokens[:6] == expected[: len(tokens)]
        assert runner.length(sequence) == 3 + len(rest.tokens)
        if limit == "time" and seconds == 0:
            assert len(rest.tokens) == 1


def test_what_the_host_must_sample_is_sampled_there(model):
    """A penalty keeps a token from coming twice; log-probabilities are those of the logits."""
    runner = runner_of(model)
    [tokens] = greedy(runner, [[1, 2, 3]], 8, frequency_penalty=1e6, repetition_penalty=1.0)
    assert len(set(tokens)) == len(tokens)
    sequence = runner.create()
    sampler = _native.Sampler(CONFIG.vocab_size, temperature=0.0, logprobs=0)
    [sampled] = runner.step([sequence], [ids(5, 6)], [sampler])
    logits = runner.forward([runner.create()], [ids(5, 6)])[0].astype(np.float64)
    expected = logits[sampled.tokens[0]] - np.logaddexp.reduce(logits)
    assert abs(sampled.logprobs[0] - expected) < 1e-4


def test_fork_truncate_and_release(model):
    runner = runner_of(model)
    a = runner.create()
    runner.forward([a], [ids(*range(1, 71))], outputs="none")
    b = runner.fork(a, 66)
    runner.truncate(a, 66)
    left = runner.forward([a], [ids(9, 8)])
    right = runner.forward([b], [ids(9, 8)])
    np.testing.assert_array_equal(left, right)
    c = runner.fork(b, 68)
    runner.forward([b], [ids(1)])
    np.testing.assert_array_equal(runner.forward([c], [ids(4)]), runner.forward([a], [ids(4)]))
    for sequence in (a, b, c):
        runner.release(sequence)


def test_adapters(backend):
    """LoRA, scales, biases, norms and a gated prefix give what they give on the CPU."""
    rng = np.random.default_rng(3)

    def small(*shape):
        return (0.1 * rng.standard_normal(shape)).astype(np.float32)

    d, heads = CONFIG.dim, CONFIG.n_heads
    patches = [
        ("add_lora", 0, "wq", small(8, d), small(heads * CONFIG.head_dim, 8)),
        ("add_lora", 1, "w2", small(4, CONFIG.ffn_dim), small(d, 4)),
        ("add_input_scale", 0, "wo", 1 + small(heads * CONFIG.head_dim)),
        ("add_bias", 1, "w1", small(CONFIG.ffn_dim)),
        ("replace_norm", 0, "ffn_norm", 1 + small(d)),
        ("add_prefix", 1, small(10, d), small(heads)),
    ]
    results = []
    for one in (backend, cpu()):
        model = model_on(one, CONFIG, WEIGHTS)
        adapter = _native.Adapter(model)
        for name, *arguments in patches:
            getattr(adapter, name)(*arguments)
        runner = runner_of(model, kv_dtype="f32")
        sequences = [runner.create(), runner.create()]
        rows = runner.forward(
            sequences, [ids(*IDS), ids(*IDS)], outputs="all", adapters=[[(adapter, 0.7)], []]
        )
        results.append(rows)
    device, host = results
    assert relative_error(device, host) <= BOUNDS["f32"]
    assert relative_error(device[: len(IDS)], device[len(IDS) :]) > 1e-2


@pytest.mark.parametrize(("format", "bound"), [("q8_0", 2.5e-2), ("q4_k_m", 2.5e-2), ("f16", 2e-3)])
def test_synthetic_weights_are_made_on_the_device(backend, monkeypatch, format, bound):
    """No matrix is made here, and yet they are the same as the CPU's."""
    monkeypatch.setattr(synthetic, "_POOL_BYTES", 20000)
    synthetic._pool.cache_clear()
    config = ModelConfig(
        dim=256, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=64, ffn_dim=512, vocab_size=300,
        norm_eps=1e-5,
    )  # fmt: skip

    def run(one, checkpoint):
        model = build_model(checkpoint, one, quantize=None, repack="auto", progress=False)
        runner = runner_of(model, kv_dtype="f32")
        return runner.forward([runner.create()], [ids(*range(12))], outputs="all")

    host = run(cpu(), synthetic.synthetic_checkpoint(config, format, seed=1))
    read = synthetic.RandomPieces.read

    def read_vector(pieces):
        assert pieces.dtype == "f32"
        return read(pieces)

    monkeypatch.setattr(synthetic.RandomPieces, "read", read_vector)
    once, again, other = (
        run(backend, synthetic.synthetic_checkpoint(config, format, seed=s)) for s in (1, 1, 2)
    )
    synthetic._pool.cache_clear()
    np.testing.assert_array_equal(once, again)
    assert relative_error(once, host) <= bound
    assert relative_error(once, other) > 0.1


def test_memory_that_is_not_there_is_refused(backend, usable):
    model = model_on(backend, CONFIG, WEIGHTS)
    per_token = 2 * 4 * CONFIG.n_layers * CONFIG.n_kv_heads * CONFIG.head_dim
    tokens = 2 * usable.memory_bytes // per_token
    with pytest.raises(CapacityError, match="cuda:0 has"):
        _native.Runner(model, n_ctx=256, kv_dtype="f32", cache_tokens=tokens)
