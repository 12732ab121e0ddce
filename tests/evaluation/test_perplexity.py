"""Both protocols against their definitions, spelt out token by token over a model of our own."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llama_rt import CapacityError, ConfigError, evaluation
from llama_rt.tokenizer import TokenizerSettings

BOS = 1
VOCAB = 50


def surprise(context: list[int], token: int) -> float:
    """A log-probability that depends on everything before the token."""
    mixed = sum((position + 1) * value for position, value in enumerate(context))
    return -0.1 - ((mixed * 31 + token * 7) % 997) / 200


class Model:
    """As much of a `Llama` as perplexity needs."""

    n_ctx = 64

    class tokenizer:  # noqa: N801
        settings = TokenizerSettings(bos_id=BOS, prefix_ids=(BOS,))

        @staticmethod
        def encode(text: str) -> list[int]:
            return [BOS, *(ord(letter) % VOCAB for letter in text)]

    def score(self, ids: list[int]) -> np.ndarray:
        values = [surprise(ids[:at], ids[at]) for at in range(1, len(ids))]
        return np.array(values, dtype=np.float32)


def ids_of(count: int) -> list[int]:
    return [BOS, *np.random.default_rng(5).integers(2, VOCAB, count - 1).tolist()]


def last(run):
    *_, final = run
    return final


@pytest.mark.parametrize("count", [16, 47, 48, 100])
def test_chunks_are_llama_cpps(count: int) -> None:
    ids, ctx = ids_of(count), 16
    losses = []
    for begin in range(0, count - ctx + 1, ctx):
        window = [BOS, *ids[begin + 1 : begin + ctx]]
        # Its loop: `first = n_ctx/2`, logits at positions first .. n_ctx-2, each with the next.
        losses += [-surprise(window[: j + 1], window[j + 1]) for j in range(ctx // 2, ctx - 1)]
    final = last(evaluation.score(Model(), np.array(ids), ctx=ctx))
    assert final.tokens == len(losses) == (count // ctx) * (ctx // 2 - 1)
    assert final.perplexity == pytest.approx(math.exp(np.mean(losses)), rel=1e-6)


@pytest.mark.parametrize("count", [16, 50])
def test_disjoint_windows_are_those_of_papers(count: int) -> None:
    ids, ctx = ids_of(count), 16
    means = []
    for begin in range(0, count - ctx + 1, ctx):
        window = ids[begin : begin + ctx]
        means.append(np.mean([-surprise(window[:j], window[j]) for j in range(1, ctx)]))
    final = last(evaluation.score(Model(), np.array(ids), ctx=ctx, stride=ctx))
    assert final.perplexity == pytest.approx(math.exp(np.mean(means)), rel=1e-6)


@pytest.mark.parametrize("stride", [1, 5, 15])
def test_strided_windows_score_each_token_once_with_the_most_context(stride: int) -> None:
    count, ctx = 40, 16
    ids = ids_of(count)
    scored: dict[int, float] = {}
    for begin in range(0, count - ctx + 1, stride):
        for at in range(begin + 1, begin + ctx):
            if at not in scored:
                scored[at] = -surprise(ids[begin:at], ids[at])
    final = last(evaluation.score(Model(), np.array(ids), ctx=ctx, stride=stride))
    assert final.tokens == len(scored)
    assert final.perplexity == pytest.approx(math.exp(np.mean(list(scored.values()))), rel=1e-6)


def test_progress_ends_with_the_whole_and_knows_its_error() -> None:
    run = list(evaluation.perplexity(Model(), "a" * 99, ctx=20))
    assert [state.window for state in run] == [1, 2, 3, 4, 5]
    assert {state.windows for state in run} == {5}
    single = next(evaluation.score(Model(), np.array(ids_of(20)), ctx=20))
    losses = [-surprise(ids_of(20)[: j + 1], ids_of(20)[j + 1]) for j in range(10, 19)]
    spread = np.std(losses) / math.sqrt(len(losses) - 1)
    assert single.error == pytest.approx(single.perplexity * spread, rel=1e-5)


def test_a_perplexity_beyond_a_float_is_infinite() -> None:
    assert evaluation.Progress(1, 1, 2, 2 * 709.0, 0.0).perplexity == math.exp(709)
    assert evaluation.Progress(1, 1, 2, 2 * 710.0, 0.0).perplexity == math.inf


def test_refuses_what_makes_no_window() -> None:
    with pytest.raises(ConfigError, match="15 tokens"):
        evaluation.score(Model(), np.array(ids_of(15)), ctx=16)
    with pytest.raises(ConfigError, match="at least 4"):
        evaluation.score(Model(), np.array(ids_of(15)), ctx=3)
    with pytest.raises(ConfigError, match="stride"):
        evaluation.score(Model(), np.array(ids_of(50)), ctx=16, stride=17)
    with pytest.raises(CapacityError, match="64"):
        evaluation.score(Model(), np.array(ids_of(100)), ctx=65)


def test_wikitext_rows() -> None:
    raw = " \n = Title = \n \n One line . \n \n"
    rows = ["", " = Title = \n", "", " One line . \n", ""]
    assert evaluation.wikitext_rows(raw) == "\n\n".join(rows)
