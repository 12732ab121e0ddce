"""The store of kept sequences: what is reused, what is dropped, and a cache without a free page."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
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
    store = PrefixCache(runner)
    store.keep(filled(runner, [1, 2, 3]), [1, 2, 3])
    store.keep(filled(runner, [1, 5, 6, 7]), [1, 5, 6, 7])
    for ids, length in (([1, 2, 3, 4], 3), ([1, 5, 6, 7], 3), ([1, 9], 1), ([2, 3], 0), ([1], 0)):
        sequence, cached = store.take(ids)
        assert (cached, runner.length(sequence)) == (length, length)
        runner.release(sequence)


def test_what_a_longer_one_holds_is_not_kept_twice(runner):
    store = PrefixCache(runner)
    store.keep(filled(runner, [1, 2, 3]), [1, 2, 3])
    store.keep(filled(runner, [1, 2, 3, 4]), [1, 2, 3, 4])
    store.keep(filled(runner, [1, 2]), [1, 2])
    store.keep(runner.create(), [])
    assert len(store) == 1
    assert store.reusable([1, 2, 3, 4, 5]) == 4
    assert runner.cache_pages()[0] == 1


def test_the_least_recently_used_goes_first(runner):
    store = PrefixCache(runner)
    store.keep(filled(runner, [1, 2]), [1, 2])
    store.keep(filled(runner, [3, 4]), [3, 4])
    runner.release(store.take([1, 2, 9])[0])
    assert store.evict(1)
    store.keep(filled(runner, [5, 6]), [5, 6])
    assert [store.reusable(ids) for ids in ([1, 2, 9], [3, 4, 9], [5, 6, 9])] == [2, 0, 2]
    store.clear()
    assert (len(store), runner.cache_pages()[0]) == (0, 0)
    assert not store.evict(1)


def test_a_shared_first_token_is_no_use(runner):
    """Every prompt begins with the same id: the chat that goes on must not be forgotten for it."""
    store = PrefixCache(runner)
    old, chat = [1, *range(10, 30)], [1, *range(40, 60)]
    store.keep(filled(runner, old), old)
    store.keep(filled(runner, chat), chat)
    runner.release(store.take([*old[:1], 9])[0])
    assert store.evict(1)
    assert [store.reusable([*ids, 7]) for ids in (old, chat)] == [1, 21]


def test_pages_are_evicted_from_the_end(runner):
    store = PrefixCache(runner)
    ids = list(range(3, 103))  # two pages
    store.keep(filled(runner, ids), ids)
    assert store.evict(1)
    assert (runner.cache_pages()[0], store.reusable([*ids, 1])) == (1, 64)
    store.keep(filled(runner, ids[:70]), ids[:70])
    assert (len(store), store.reusable([*ids, 1])) == (1, 70)


def test_nothing_is_shared_across_keys(runner):
    store = PrefixCache(runner)
    ids = list(range(3, 83))
    store.keep(filled(runner, ids), ids, key="mine")
    store.keep(filled(runner, ids), ids, key="yours")
    assert len(store) == 2
    assert [store.reusable([*ids, 1], key=key) for key in ("mine", "yours", "theirs")] == [
        80,
        80,
        0,
    ]


@given(st.lists(st.lists(st.integers(1, 2), max_size=200), min_size=1, max_size=6))
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_it_finds_what_a_search_through_all_finds(runner, kept):
    store = PrefixCache(runner)
    for ids in kept[:-1]:
        if runner.cache_pages()[0] > 1:
            break
        if ids:
            store.keep(filled(runner, ids[:100]), ids[:100])
    wanted = [*kept[-1], 1]
    held = [cached.tokens for cached in store._kept]
    best = max((min(common_length(ids, wanted), len(wanted) - 1) for ids in held), default=0)
    assert store.reusable(wanted) == best
    store.clear()


def test_a_full_cache_hands_the_kept_sequence_over(runner):
    store = PrefixCache(runner)
    ids = list(range(3, 103))
    store.keep(filled(runner, ids), ids)
    filled(runner, list(range(128)))  # four pages of 64: none is left
    sequence, cached = store.take([*ids[:70], 5])
    assert (cached, runner.length(sequence), len(store)) == (70, 70, 0)
