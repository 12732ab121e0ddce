"""Logits, scores and embeddings against the float64 reference, and log-probabilities with them."""

import numpy as np
import pytest

from llama_rt import CapacityError, ConfigError
from reference.model import forward, hidden_states, relative_error

IDS = [1, *range(5, 200, 3)]


def log_softmax(rows):
    rows = rows.astype(np.float64)
    peak = rows.max(axis=-1, keepdims=True)
    return rows - peak - np.log(np.exp(rows - peak).sum(axis=-1, keepdims=True))


def test_logits(llm, tiny_model):
    rows = llm.logits(IDS)
    assert rows.dtype == np.float32
    assert rows.shape == (len(IDS), llm.config.vocab_size)
    assert relative_error(rows, forward(*tiny_model, IDS)) < 2e-3
    np.testing.assert_array_equal(rows, llm.logits(np.array(IDS)))
    np.testing.assert_array_equal(rows[:1], llm.logits(IDS[:1]))


def test_logits_take_the_whole_context_and_no_more(llm):
    full = [3 + i % 500 for i in range(256)]
    assert llm.logits(full).shape == (256, 512)
    with pytest.raises(CapacityError, match="257"):
        llm.logits([*full, 3])


def test_logits_in_chunks_are_the_same(llm, monkeypatch):
    from llama_rt.api import forward as numbers

    whole = llm.logits(IDS)
    monkeypatch.setattr(numbers, "_CHUNK_LOGITS", 7 * 512)
    np.testing.assert_array_equal(llm.logits(IDS), whole)


@pytest.mark.parametrize("ids", [[], [512], [-1], [1.0], ["a"], "a", None, [[1, 2], 3]], ids=repr)
def test_what_are_no_ids(llm, ids):
    with pytest.raises((TypeError, ConfigError), match=r"ids|prompt"):
        llm.logits(ids)


def test_score(llm):
    rows = log_softmax(llm.logits(IDS))
    expected = rows[np.arange(len(IDS) - 1), IDS[1:]]
    scores = llm.score(IDS)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=2e-5)
    assert llm.score([5]).shape == (0,)
    text = "The llama drank"
    np.testing.assert_array_equal(llm.score(text), llm.score(llm.tokenizer.encode(text)))


def test_embed(llm, tiny_model):
    states = hidden_states(*tiny_model, IDS)
    for pooling, expected in (("mean", states.mean(axis=0)), ("last", states[-1])):
        plain = llm.embed(IDS, pooling=pooling, normalize=False)
        assert (plain.dtype, plain.shape) == (np.float32, (64,))
        assert relative_error(plain, expected) < 2e-3
        unit = llm.embed(IDS, pooling=pooling)
        np.testing.assert_allclose(np.linalg.norm(unit), 1, atol=1e-6)
        np.testing.assert_allclose(unit, plain / np.linalg.norm(plain), atol=1e-6)
    with pytest.raises(ConfigError, match=r"pooling.*'max'"):
        llm.embed("a", pooling="max")


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"seed": 3, "temperature": 1.3}])
def test_log_probabilities_are_the_models_own(llm, options):
    """Before temperature, penalties and bias; of the chosen token and the most likely ones."""
    ids = llm.tokenizer.encode("The llama")
    done = llm.generate(ids, max_tokens=12, logprobs=4, **options)
    rows = log_softmax(llm.logits(ids + done.tokens[:-1])[len(ids) - 1 :])
    for row, token, entry in zip(rows, done.tokens, done.logprobs, strict=True):
        assert entry.token == token
        assert entry.piece == llm.tokenizer.piece(token)
        assert entry.logprob == pytest.approx(row[token], abs=1e-4)
        best = np.argsort(-row, kind="stable")[:4]
        assert list(entry.top) == best.tolist()
        np.testing.assert_allclose(list(entry.top.values()), row[best], atol=1e-4)
    assert llm.generate(ids, max_tokens=2).logprobs is None
