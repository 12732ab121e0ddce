"""What is unlearned, and that unlearning and reading move a model where they should."""

import argparse

import finish_tales
import numpy as np
import pytest
import torch
from export_tales import write_folder
from finish_tales import Finishing, beginnings, excessive, repeated
from tales_data import BOS, EOS, Corpus
from tales_model import TalesConfig, TalesModel

TINY = TalesConfig(32, 2, 4, 2, 64, vocab_size=50, max_position_embeddings=128)


def test_repeated_marks_the_last_token_of_a_run_seen_before():
    ids = [5, 6, 7, 8, 9, 5, 6, 7, 8, 5]
    assert np.flatnonzero(repeated(ids)).tolist() == [8]
    assert not repeated([1, 2, 3]).any()
    assert np.flatnonzero(repeated([4] * 6)).tolist() == [4, 5]


def test_only_dense_repetition_is_excessive():
    marks = np.zeros(200, dtype=bool)
    marks[::16] = True  # 4 in any 64: as real text has it
    assert not excessive(marks, 0.2).any()
    marks[100:130] = True
    found = excessive(marks, 0.2)
    assert found[100:130].all()
    assert not found[0]
    assert not (found & ~marks).any()
    assert not excessive(np.ones(63, dtype=bool), 0.2).any()


@pytest.fixture
def corpus():
    rng = np.random.default_rng(0)
    stories = [[BOS, *rng.integers(3, 50, size=60), EOS] for _ in range(20)]
    starts = np.cumsum([0, *map(len, stories)])
    return Corpus(np.array(stories, dtype=np.uint16).ravel(), starts, 3600)


def test_prompts_begin_stories_or_lie_within(corpus):
    prompts = beginnings(corpus, 40, np.random.default_rng(1))
    first = {tuple(story[1:4]) for story in corpus.stories()}
    assert all(prompt[0] == BOS and EOS not in prompt for prompt in prompts)
    assert all(BOS not in prompt[1:] for prompt in prompts)
    assert all(tuple(prompt[1:4]) in first for prompt in prompts[1::2])


def test_unlearned_tokens_become_less_likely_and_ends_more(corpus, tmp_path, monkeypatch):
    monkeypatch.setitem(finish_tales.SIZES, "test", TINY)
    torch.manual_seed(0)
    model = TalesModel(TINY)
    (tmp_path / "tokenizer.model").write_bytes(b"unused here")
    write_folder(model, tmp_path / "tokenizer.model", tmp_path / "hf", 128)
    np.savez(tmp_path / "train.npz", ids=corpus.ids, starts=corpus.starts, characters=3600)
    finishing = Finishing(
        argparse.Namespace(
            data=tmp_path, weights=tmp_path / "hf", size="test", seed=1, context=32,
            batch_tokens=256, shortest=40, ending=20.0, weight=2.0, muon_lr=0.02, adam_lr=0.01,
            weight_decay=0.0,
        )
    )  # fmt: skip
    ids = torch.full((2, 60), 7)
    marks = torch.zeros(2, 59, dtype=torch.bool)
    marks[:, 30:] = True
    ends = torch.tensor(np.array(list(corpus.stories()), dtype=np.int64))

    def odds():
        with torch.no_grad():
            looping = finishing.model(ids[:, :-1]).softmax(-1)[marks][:, 7].mean()
            ending = finishing.model(ends[:, :-1]).softmax(-1)[:, -1, EOS].mean()
        return float(looping), float(ending)

    before = odds()
    losses = [finishing.step(ids, marks, 1.0) for _ in range(30)]
    after = odds()
    assert after[0] < before[0] / 2
    assert after[1] > before[1] * 2
    assert losses[-1][1] < losses[0][1]
    read, unlearn = finishing.step(ids[:0], marks[:0], 1.0)
    assert read > 0
    assert unlearn == 0
