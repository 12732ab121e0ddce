"""The store of kept sequences: what is reused, what is dropped, and a cache without a free page."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_rt.engine.prefix_cache import PrefixCache, common_length
from native_models import build_runner


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_common_length(start, a, b):
    a, b = start + a, start + b
    expected = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    assert common_length(a, b) == (min(len(a), len(b)) if expected is None else expected)


@pytest.fixture
def runner(tiny_model):
    return build_runner(*tiny_model, threads=1, cache_tokens=256)


def filled(runner, ids):
    sequence = runner.create()
    runner.forward([sequence], [np.array(ids, np.int32)], outputs="none")
    return sequence


def test_the_longest_beginning_is_taken_but_never_all(runner):
    store = PrefixCache(runner, max_sequences=4, max_tokens=1000)
    store.keep(filled(runner, [1, 2, 3]), [1, 2, 3])
    store.keep(filled(runner, [1, 5, 6, 7]), [1, 5, 6, 7])
    for ids, length in (([1, 2, 3, 4], 3), ([1, 5, 6, 7], 3), ([1, 9], 1), ([2, 3], 0), ([1], 0)):
        sequence, cached = store.take(ids)
        assert (cached, runner.length(sequence)) == (length, length)
        runner.release(sequence)


def test_what_a_longer_one_holds_is_not_kept_twice(runner):
    store = PrefixCache(runner, max_sequences=4, max_tokens=1000)
    store.keep(filled(runner, [1, 2, 3]), [1, 2, 3])
    store.keep(filled(runner, [1, 2, 3, 4]), [1, 2, 3, 4])
    store.keep(filled(runner, [1, 2]), [1, 2])
    store.keep(runner.create(), [])
    assert store.tokens == 4


def test_the_least_recently_used_goes_first(runner):
    store = PrefixCache(runner, max_sequences=2, max_tokens=1000)
    store.keep(filled(runner, [1, 2]), [1, 2])
    store.keep(filled(runner, [3, 4]), [3, 4])
    runner.release(store.take([1, 2, 9])[0])
    store.keep(filled(runner, [5, 6]), [5, 6])
    assert [store.take(ids)[1] for ids in ([1, 2, 9], [3, 4, 9], [5, 6, 9])] == [2, 0, 2]
    store.clear()
    assert store.tokens == 0


def test_tokens_are_limited(runner):
    store = PrefixCache(runner, max_sequences=9, max_tokens=5)
    store.keep(filled(runner, [1, 2, 3]), [1, 2, 3])
    store.keep(filled(runner, [4, 5, 6]), [4, 5, 6])
    assert store.tokens == 3
    store.keep(filled(runner, list(range(10))), list(range(10)))
    assert store.tokens == 3


def test_a_full_cache_hands_the_kept_sequence_over(runner):
    store = PrefixCache(runner, max_sequences=9, max_tokens=1000)
    ids = list(range(3, 103))
    store.keep(filled(runner, ids), ids)
    filled(runner, list(range(128)))  # four pages of 64: none is left
    sequence, cached = store.take([*ids[:70], 5])
    assert (cached, runner.length(sequence), store.tokens) == (70, 70, 0)
