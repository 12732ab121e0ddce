"""Scores, logits and embeddings of lists: as of each alone, and what is shared computed once."""

import numpy as np
import pytest

from llama_rt import CapacityError, ConfigError, Llama

CONTEXT = list(range(3, 120))
TEXTS = [
    *([*CONTEXT, *end] for end in ([7, 8], [9], [7, 8, 9, 10], [])),
    [5, 6],
    [4],
    CONTEXT[:40],
]


@pytest.fixture(scope="module")
def llm(tiny_hf_folder):
    with Llama.load(tiny_hf_folder, threads=1, reproducible=True) as llm:
        yield llm


@pytest.mark.parametrize("call", ["score", "logits", "embed"])
def test_a_list_gives_what_each_gives_alone(llm, call):
    together = getattr(llm, call)(TEXTS)
    assert len(together) == len(TEXTS)
    for ids, rows in zip(TEXTS, together, strict=True):
        np.testing.assert_array_equal(rows, getattr(llm, call)(ids))


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_poolings_of_a_list(llm, pooling):
    alone = [llm.embed(ids, pooling, False) for ids in TEXTS]
    np.testing.assert_array_equal(llm.embed(TEXTS, pooling, False), alone)


def test_a_shared_beginning_is_computed_once(llm, monkeypatch):
    runner = llm._loaded.engine._scheduler._forwards._runner
    rows = []

    class Counted:
        def __getattr__(self, name):
            return getattr(runner, name)

        def forward(self, sequences, tokens, **options):
            rows.append(sum(map(len, tokens)))
            return runner.forward(sequences, tokens, **options)

    monkeypatch.setattr(llm._loaded.engine._scheduler._forwards, "_runner", Counted())
    texts = [[*CONTEXT, 200 + i, 5] for i in range(8)]
    llm.score(texts)
    # All of the first but its last id, and of each other one the row that predicts what differs.
    assert sum(rows) == len(CONTEXT) + 1 + 7 * 2
    assert len(rows) <= 3
    assert runner.cache_pages()[0] == 0


def test_texts_and_short_texts(llm):
    texts = ["A cat", "A cat and a dog", "x"]
    for text, row in zip(texts, llm.score(texts), strict=True):
        np.testing.assert_array_equal(row, llm.score(text))
        assert len(row) == len(llm.tokenizer.encode(text)) - 1


def test_a_cache_too_small_for_all_takes_them_in_turn(tiny_hf_folder, llm):
    page = 64 * 2 * 2 * 2 * 16 * 2
    texts = [[i, *CONTEXT] for i in range(3, 8)]
    with Llama.load(tiny_hf_folder, threads=1, reproducible=True, kv_cache_bytes=3 * page) as small:
        together = small.score(texts), small.embed(texts)
    np.testing.assert_array_equal(together[0], llm.score(texts))
    np.testing.assert_array_equal(together[1], llm.embed(texts))


def test_what_is_wrong_is_told_before_anything_runs(llm):
    with pytest.raises(CapacityError, match="300 tokens do not fit in the context of 256"):
        llm.score([[1, 2], [1] * 300])
    with pytest.raises(ConfigError, match="at least one token id"):
        llm.score([[1, 2], []])
