"""Refusals and interruptions leave every sequence exactly as it was."""

import threading
import time

import numpy as np
import pytest

from llama_rt import _native
from llama_rt.errors import CancelledError, CapacityError
from native_models import build_runner, logits
from reference.model import Config, random_weights

CONFIG = Config(dim=128, n_heads=4, n_kv_heads=2, head_dim=32, ffn_dim=256, n_layers=6)
WEIGHTS = random_weights(CONFIG, seed=2)
IDS = np.random.default_rng(4).integers(0, 512, 250).astype(np.int32)


@pytest.fixture(scope="module")
def runner():
    return build_runner(CONFIG, WEIGHTS, kv_dtype="f16")


def test_a_flag_already_set_stops_before_anything(runner):
    sequence = runner.create()
    runner.forward([sequence], [IDS[:50]], outputs="none")
    flag = _native.CancelFlag()
    assert not flag.is_set
    flag.set()
    assert flag.is_set
    with pytest.raises(CancelledError):
        runner.forward([sequence], [IDS[50:90]], cancel=flag)
    assert runner.length(sequence) == 50
    flag.clear()
    got = runner.forward([sequence], [IDS[50:60]], outputs="all", cancel=flag)
    np.testing.assert_array_equal(got, logits(runner, IDS[:60])[50:])
    runner.release(sequence)


def test_a_flag_set_from_another_thread_stops_between_layers():
    """The interrupted tokens leave no trace: lengths, forks and later logits are as before."""
    deep = Config(dim=128, head_dim=32, ffn_dim=512, n_layers=24)
    runner = build_runner(deep, random_weights(deep, seed=3), kv_dtype="f16")
    parent = runner.create()
    runner.forward([parent], [IDS[:70]], outputs="none")
    child = runner.fork(parent, 66)
    started = time.perf_counter()
    expected = logits(runner, IDS)
    whole = time.perf_counter() - started
    stopped = 0
    for share in (0.05, 0.15, 0.3, 0.5, 0.7):
        flag = _native.CancelFlag()
        timer = threading.Timer(share * whole, flag.set)
        timer.start()
        try:
            runner.forward([parent, child], [IDS[70:], IDS[66:]], outputs="none", cancel=flag)
        except CancelledError:
            stopped += 1
        else:
            runner.truncate(parent, 70)
            runner.truncate(child, 66)
        timer.join()
        assert (runner.length(parent), runner.length(child)) == (70, 66)
    assert stopped > 0
    rows = runner.forward([parent, child], [IDS[70:], IDS[66:]], outputs="all")
    np.testing.assert_array_equal(rows, np.concatenate([expected[70:], expected[66:]]))


def test_a_stopped_decode_keeps_what_was_sampled(runner):
    sequence = runner.create()
    sampler = _native.Sampler(512, temperature=0.0)
    first = runner.step([sequence], [IDS[:10]], [sampler])[0].tokens[0]
    flag = _native.CancelFlag()
    flag.set()
    sampled = runner.decode([sequence], [first], [sampler], steps=50, cancel=flag)[0].tokens
    assert len(sampled) <= 1
    assert runner.length(sequence) == 10 + len(sampled)
    flag.clear()
    more = runner.decode([sequence], [(sampled or [first])[-1]], [sampler], steps=5, cancel=flag)
    ids = [*IDS[:10].tolist(), first, *sampled, *more[0].tokens]
    assert ids[10:] == np.argmax(logits(runner, ids[:-1])[9:], axis=1).tolist()
    runner.release(sequence)


def test_a_context_that_is_full_loses_nothing():
    runner = build_runner(CONFIG, WEIGHTS, kv_dtype="f16", n_ctx=100, cache_tokens=512)
    a, b = runner.create(), runner.create()
    runner.forward([a, b], [IDS[:90], IDS[:20]], outputs="none")
    for tokens in ([IDS[90:101], IDS[20:21]], [IDS[90:91], IDS[20:101]]):
        with pytest.raises(CapacityError):
            runner.forward([a, b], tokens)
        assert (runner.length(a), runner.length(b)) == (90, 20)
    rows = runner.forward([a, b], [IDS[90:100], IDS[20:30]], outputs="all")
    expected = logits(build_runner(CONFIG, WEIGHTS, kv_dtype="f16"), IDS[:100])
    np.testing.assert_array_equal(rows, np.concatenate([expected[90:], expected[20:30]]))


def test_a_cache_that_is_full_loses_nothing():
    runner = build_runner(CONFIG, WEIGHTS, kv_dtype="f16", n_ctx=256, cache_tokens=256)
    a, b = runner.create(), runner.create()
    runner.forward([a, b], [IDS[:150], IDS[:60]], outputs="none")
    held = runner.memory()["kv_cache"]
    with pytest.raises(CapacityError):
        runner.forward([a, b], [IDS[150:220], IDS[60:130]])
    assert (runner.length(a), runner.length(b)) == (150, 60)
    assert runner.memory()["kv_cache"] <= held * 2
    runner.release(b)
    got = runner.forward([a], [IDS[150:220]], outputs="all")
    np.testing.assert_array_equal(
        got, logits(build_runner(CONFIG, WEIGHTS, kv_dtype="f16"), IDS[:220])[150:]
    )


def test_two_threads_alternate():
    runner = build_runner(CONFIG, WEIGHTS, kv_dtype="f16")
    expected = logits(runner, IDS[:120])
    failures = []

    def work():
        for _ in range(5):
            if not np.array_equal(logits(runner, IDS[:120]), expected):
                failures.append("other logits")

    threads = [threading.Thread(target=work) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures


def test_the_interpreter_runs_during_a_forward():
    """Long work releases the interpreter lock."""
    deep = Config(dim=128, head_dim=32, ffn_dim=512, n_layers=24)
    runner = build_runner(deep, random_weights(deep, seed=3), threads=1)
    running = threading.Event()
    ticks = []

    def tick():
        while running.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.0005)

    running.set()
    thread = threading.Thread(target=tick)
    thread.start()
    started = time.perf_counter()
    sequence = runner.create()
    runner.forward([sequence], [IDS], outputs="none")
    ended = time.perf_counter()
    running.clear()
    thread.join()
    assert sum(started < t < ended for t in ticks) >= min(3, (ended - started) / 0.01)
