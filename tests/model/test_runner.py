"""Sequences of a runner: their life, their limits, and what is refused without harm."""

import contextlib

import numpy as np
import pytest

from llama_rt import _native
from llama_rt.errors import CapacityError, LlamaRtError, ShapeError
from native_models import build_model, build_runner, logits
from reference.model import Config, random_weights

CONFIG = Config()
WEIGHTS = random_weights(CONFIG, seed=2)


def ids(*values):
    return np.array(values, np.int32)


@pytest.fixture(scope="module")
def model():
    return build_model(CONFIG, WEIGHTS)


@pytest.fixture
def runner(model):
    return _native.Runner(model, n_ctx=128, kv_dtype="f16", cache_tokens=2048)


def test_cache_holds_one_full_sequence_unless_asked(model):
    """`cache_tokens=0`: as much as one sequence of `n_ctx` needs."""
    runner = _native.Runner(model, n_ctx=128, kv_dtype="f16")
    runner.forward([runner.create()], [ids(*range(128))], outputs="none")
    with pytest.raises(CapacityError, match="cache is full"):
        runner.forward([runner.create()], [ids(1)], outputs="none")


def test_lengths_follow_what_is_fed(runner):
    a, b = runner.create(), runner.create()
    assert a != b
    assert runner.length(a) == 0
    runner.forward([a, b], [ids(1, 2, 3), ids(4)])
    assert (runner.length(a), runner.length(b)) == (3, 1)
    runner.forward([a], [ids(5, 6)])
    assert (runner.length(a), runner.length(b)) == (5, 1)
    runner.truncate(a, 2)
    assert runner.length(a) == 2
    c = runner.fork(a, 1)
    assert runner.length(c) == 1
    for sequence in (a, b, c):
        runner.release(sequence)


def test_rows_come_in_the_order_of_the_sequences(runner):
    a, b = runner.create(), runner.create()
    both = runner.forward([a, b], [ids(1, 2, 3), ids(9, 8)], outputs="all")
    assert both.shape == (5, CONFIG.vocab_size)
    assert both.dtype == np.float32
    np.testing.assert_array_equal(both[:3], logits(runner, [1, 2, 3]))
    np.testing.assert_array_equal(both[3:], logits(runner, [9, 8]))
    c, d = runner.create(), runner.create()
    last = runner.forward([c, d], [ids(1, 2, 3), ids(9, 8)], outputs="last")
    np.testing.assert_array_equal(last, both[[2, 4]])


def test_dead_and_unknown_sequences_are_refused(runner):
    sequence = runner.create()
    runner.release(sequence)
    for bad in (sequence, -1, 10**6):
        for use in (
            lambda s: runner.forward([s], [ids(1)]),
            lambda s: runner.length(s),
            lambda s: runner.truncate(s, 0),
            lambda s: runner.fork(s, 0),
            lambda s: runner.release(s),
        ):
            with pytest.raises((LlamaRtError, ValueError, KeyError, IndexError)):
                use(bad)


def test_bad_batches_change_nothing(runner):
    a, b = runner.create(), runner.create()
    runner.forward([a, b], [ids(1, 2), ids(3)])
    bad = [
        ([a], [ids(1), ids(2)]),
        ([a, b], [ids(1)]),
        ([a, a], [ids(1), ids(2)]),
        ([a, b], [ids(1), ids(CONFIG.vocab_size)]),
        ([a, b], [ids(1), ids(-1)]),
        ([a, 777], [ids(1), ids(1)]),
    ]
    for sequences, tokens in bad:
        with pytest.raises((LlamaRtError, ValueError, KeyError, IndexError)):
            runner.forward(sequences, tokens)
        assert (runner.length(a), runner.length(b)) == (2, 1)
    got = runner.forward([a], [ids(7)], outputs="last")
    np.testing.assert_array_equal(got, logits(runner, [1, 2, 7])[-1:])


def test_lengths_outside_a_sequence_are_refused(runner):
    sequence = runner.create()
    runner.forward([sequence], [ids(1, 2, 3)])
    for length in (4, -1, 2**31 - 1):
        with pytest.raises((LlamaRtError, ValueError)):
            runner.truncate(sequence, length)
        with pytest.raises((LlamaRtError, ValueError)):
            runner.fork(sequence, length)
    assert runner.length(sequence) == 3


def test_context_ends_where_it_was_asked_to(model):
    runner = _native.Runner(model, n_ctx=20, kv_dtype="f16")
    sequence = runner.create()
    runner.forward([sequence], [ids(*range(20))])
    with pytest.raises(CapacityError, match="20"):
        runner.forward([sequence], [ids(1)])
    assert runner.length(sequence) == 20
    with pytest.raises(CapacityError, match="20"):
        runner.forward([runner.create()], [ids(*range(21))])


def test_absurd_contexts_are_refused_or_committed_lazily(model):
    """A context is address space until it is used; one beyond any machine is an error."""
    runner = _native.Runner(model, n_ctx=100_000, kv_dtype="f32")
    runner.forward([runner.create()], [ids(1, 2, 3)])
    held = runner.memory()
    assert held["kv_cache"] < 2**20
    assert held["kv_cache"] <= held["kv_cache_max"]
    for n_ctx in (0, -1, 2**62):
        with pytest.raises((LlamaRtError, MemoryError, OverflowError)):
            _native.Runner(model, n_ctx=n_ctx)


@pytest.mark.parametrize("tokens", [2**40, 2**56, 2**62, 2**63 - 1])
def test_a_cache_larger_than_any_memory_is_refused(model, tokens):
    with pytest.raises((CapacityError, MemoryError)):
        _native.Runner(model, n_ctx=128, cache_tokens=tokens)


def test_none_in_place_of_an_object_is_a_type_error(runner):
    sequence = runner.create()
    with pytest.raises(TypeError):
        _native.Runner(None, n_ctx=128)
    with pytest.raises(TypeError):
        _native.Model(None)
    with pytest.raises(TypeError):
        _native.Adapter(None)
    with pytest.raises(TypeError, match="samplers"):
        runner.decode([sequence], [1], [None], steps=1)
    with pytest.raises(TypeError, match="adapters"):
        runner.forward([sequence], [ids(1)], adapters=[[(None, 1.0)]])


def test_memory_names_its_parts(runner):
    before = runner.memory()
    assert set(before) >= {"weights", "kv_cache", "kv_cache_max", "workspace"}
    assert before["weights"] >= sum(w.nbytes for w in WEIGHTS.values()) * 0.9
    sequence = runner.create()
    runner.forward([sequence], [ids(*range(100))])
    # Two layers, keys and values, two heads of 16 halves.
    assert runner.memory()["kv_cache"] >= 100 * 2 * 2 * 2 * 16 * 2


def test_released_memory_serves_the_next(model):
    runner = _native.Runner(model, n_ctx=128, kv_dtype="f16", cache_tokens=256)
    for _ in range(20):
        sequence = runner.create()
        runner.forward([sequence], [ids(*range(120))], outputs="none")
        runner.release(sequence)


def test_unknown_cache_types_are_refused(model):
    for name in ("f64", "q4_k", "", "int8"):
        with pytest.raises(LlamaRtError):
            _native.Runner(model, n_ctx=16, kv_dtype=name)


def test_options_are_checked(runner):
    sequence = runner.create()
    with pytest.raises((LlamaRtError, ValueError)):
        runner.forward([sequence], [ids(1)], outputs="some")
    assert runner.length(sequence) == 0


def test_nothing_to_do_is_nothing(runner):
    assert runner.forward([], []).shape[0] == 0


def test_profile_counts_seconds_per_op():
    runner = build_runner(CONFIG, WEIGHTS)
    runner.profile(True)
    logits(runner, range(50))
    measured = runner.profile(False)
    assert measured
    assert all(seconds >= 0 for seconds in measured.values())
    assert sum(measured.values()) > 0
    logits(runner, range(50))
    assert sum(runner.profile(False).values()) == 0


def test_empty_token_arrays_are_refused_or_harmless(runner):
    sequence = runner.create()
    with contextlib.suppress(ShapeError, ValueError):
        runner.forward([sequence], [ids()], outputs="none")
    assert runner.length(sequence) == 0


@pytest.mark.parametrize("call", ["step", "decode"])
def test_a_sampler_that_can_draw_nothing_fails_alone(runner, call):
    def greedy():
        return _native.Sampler(CONFIG.vocab_size, temperature=0.0)

    suppressed = dict.fromkeys(range(CONFIG.vocab_size), -np.inf)
    samplers = [greedy(), _native.Sampler(CONFIG.vocab_size, logit_bias=suppressed), greedy()]

    def run(samplers):
        sequences = [runner.create() for _ in samplers]
        if call == "step":
            tokens = [np.array([1, 5, 9], np.int32) for _ in samplers]
            results = runner.step(sequences, tokens, samplers)
        else:
            results = runner.decode(sequences, [7 for _ in samplers], samplers, steps=4)
        return results, [runner.length(sequence) for sequence in sequences]

    results, lengths = run(samplers)
    alone = run([greedy()])[0][0].tokens
    assert [len(result.tokens) for result in results] == [1, 0, 1]
    assert [result.failure != "" for result in results] == [False, True, False]
    assert "no token can be sampled" in results[1].failure
    assert results[0].tokens == results[2].tokens == alone[:1]
    assert lengths == [3 if call == "step" else 1] * 3
