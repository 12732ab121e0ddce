"""Bits per character against models whose loss is known on paper."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from recitation import longest_runs
from tales_data import Corpus
from tales_eval import bits_per_character, heldout_nats, strided_windows

VOCAB = 11


def corpus_of(*stories):
    starts = np.cumsum([0, *map(len, stories)])
    return Corpus(np.concatenate(stories).astype(np.uint16), starts, 100)


@pytest.mark.parametrize("length", [2, 3, 8, 9, 10, 16, 17, 50])
@pytest.mark.parametrize(("context", "stride"), [(8, 8), (8, 4), (8, 1), (64, 32)])
def test_every_token_after_the_first_is_predicted_once(length, context, stride):
    seen = []
    for begin, end, first in strided_windows(length, context, stride):
        assert 0 <= begin < first <= end < length
        assert end - begin <= context
        if begin > 0:
            assert first - begin > context - stride  # tokens that the first counted target sees
        seen.extend(range(first, end + 1))
    assert seen == list(range(1, length))


def test_uniform_model_costs_the_log_of_the_vocabulary():
    stories = [np.arange(1, 10), np.arange(1, 4)]
    nats, count = heldout_nats(
        lambda ids: torch.zeros(*ids.shape, VOCAB), corpus_of(*stories), 4, 2, batch=2
    )
    assert count == 8 + 2
    assert nats == pytest.approx(count * math.log(VOCAB))
    assert bits_per_character(nats, 40) == pytest.approx(10 * math.log2(VOCAB) / 40)


def test_padding_and_context_do_not_leak_into_the_sum():
    """A bigram model's loss is the same whatever the windows and the batches."""
    table = torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    stories = [rng.integers(1, VOCAB, size=n) for n in (5, 23, 9, 2)]
    rows = table.log_softmax(-1)
    expected = -sum(float(rows[a, b]) for s in stories for a, b in pairwise(s))
    for context, stride, batch in ((4, 4, 3), (8, 2, 5), (100, 50, 1)):
        nats, count = heldout_nats(
            lambda ids: table[ids], corpus_of(*stories), context, stride, batch
        )
        assert count == sum(len(s) - 1 for s in stories)
        assert nats == pytest.approx(expected, rel=1e-5)


def test_longest_shared_run_is_found_and_stays_within_a_story():
    corpus = ["The old king had three sons.", "And a fox, said the crow, is no friend of mine."]
    tales = [
        "There an OLD KING had three daughters",
        "three sons and a fox said the hen",
        "xyzzy",
        "and a fox said the crow is no friend of mine",
    ]
    assert longest_runs(tales, corpus) == [
        (4, "old king had three"),
        (5, "and a fox said the"),
        (0, ""),
        (11, "and a fox said the crow is no friend of mine"),
    ]
