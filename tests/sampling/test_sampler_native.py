"""The native sampler against the rules written out in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llama_rt import _native
from llama_rt.errors import ConfigError, LlamaRtError, ShapeError
from reference import sampling as reference

NEUTRAL = {"temperature": 1.0, "top_p": 1.0}


def some_logits(vocab, seed=0, spread=2.0):
    return np.random.default_rng(seed).normal(0, spread, vocab).astype(np.float32)


def tokens_of(sampler, logits, count):
    return np.array([sampler.sample(logits)[0] for _ in range(count)])


def chi_square_tail(counts, expected):
    """Probability of a fit at least this bad, by Wilson and Hilferty's approximation."""
    # Cells that expect fewer than 5 are joined into one.
    small = expected < 5
    counts = np.append(counts[~small], counts[small].sum())
    expected = np.append(expected[~small], expected[small].sum())
    counts, expected = counts[expected > 0], expected[expected > 0]
    freedom = len(counts) - 1
    if freedom == 0:
        return 1.0
    statistic = ((counts - expected) ** 2 / expected).sum()
    spread = 2 / (9 * freedom)
    z = ((statistic / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)
    return 0.5 * math.erfc(z / math.sqrt(2))


def assert_distributed(tokens, expected):
    counts = np.bincount(tokens, minlength=len(expected))
    assert counts[expected == 0].sum() == 0, "a token was sampled that the rules exclude"
    assert chi_square_tail(counts, expected * len(tokens)) > 1e-4


SETTINGS = [
    {},
    NEUTRAL,
    {"temperature": 0.3, "top_p": 1.0},
    {"temperature": 3.0, "top_p": 1.0},
    {"top_p": 0.5, "temperature": 1.0},
    {"top_p": 0.999, "temperature": 1.5},
    {"top_k": 1, **NEUTRAL},
    {"top_k": 7, **NEUTRAL},
    {"top_k": 40, "top_p": 0.9},
    {"min_p": 0.05, **NEUTRAL},
    {"min_p": 0.2, "top_p": 0.9, "top_k": 30},
    {"typical_p": 0.5, **NEUTRAL},
    {"typical_p": 0.9, "top_k": 50, "top_p": 0.8, "min_p": 0.02, "temperature": 1.2},
    {"logit_bias": {3: 4.0, 5: -math.inf, 9: -2.0}, **NEUTRAL},
    {"logit_bias": {0: math.inf}, **NEUTRAL, "top_k": 3},
]


@pytest.mark.parametrize("vocab", [3, 100, 1000])
@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_frequencies(vocab, options):
    options = {**options}
    if "logit_bias" in options:
        options["logit_bias"] = {t: b for t, b in options["logit_bias"].items() if t < vocab}
    logits = some_logits(vocab, seed=vocab)
    sampler = _native.Sampler(vocab, seed=11, **options)
    wanted = dict(options)
    if wanted.get("logit_bias", {}).get(0) == math.inf:
        wanted["logit_bias"] = {0: 1e4}  # the same choice, in numbers that float64 can subtract
    assert_distributed(tokens_of(sampler, logits, 12000), reference.distribution(logits, **wanted))


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.7},
        {"repetition_penalty": 0.6},
        {"presence_penalty": 0.9},
        {"frequency_penalty": 0.4},
        {"repetition_penalty": 1.2, "presence_penalty": -0.5, "frequency_penalty": 0.3},
        {"repetition_penalty": 1.3, "logit_bias": {2: -3.0}, "top_p": 0.9, "temperature": 0.7},
    ],
    ids=str,
)
def test_penalties(options):
    vocab, prompt, generated = 12, [1, 2, 2, 3], [4, 4, 4, 1, 7]
    options = {**NEUTRAL, **options}
    logits = some_logits(vocab, seed=5)
    sampled = []
    for seed in range(6000):
        sampler = _native.Sampler(vocab, seed=seed, **options)
        sampler.observe(np.array(prompt, np.int32))
        for token in generated:
            only = np.full(vocab, -np.inf, np.float32)
            only[token] = 0
            assert sampler.sample(only)[0] == token
        sampled.append(sampler.sample(logits)[0])
    expected = reference.distribution(logits, prompt=prompt, generated=generated, **options)
    assert_distributed(np.array(sampled), expected)


@pytest.mark.parametrize("vocab", [300, 5000, 32000])
@pytest.mark.parametrize("spread", [0.0, 0.5, 3.0])
@pytest.mark.parametrize(
    "options",
    [
        {"top_p": 0.95},
        {"top_p": 0.3},
        {"top_p": 0.99999},
        {"top_k": 100, "top_p": 0.9},
        {"typical_p": 0.8, "top_p": 1.0},
        {"min_p": 0.1, "top_p": 1.0},
    ],
    ids=str,
)
def test_survivors_of_large_vocabularies(vocab, spread, options):
    """Sampling goes through the survivors by rising id, so a wrong cut shifts every share.

    The sampled token must be the one whose share of the running sum holds the random number.
    """
    logits = some_logits(vocab, seed=vocab, spread=spread)
    expected = reference.distribution(logits, temperature=1.0, **options)
    ends = np.cumsum(expected)
    sampler = _native.Sampler(vocab, seed=3, temperature=1.0, **options)
    # Single precision may move a share a little, and the cut by one token.
    slack = 2e-6 + expected[expected > 0].min()
    for index in range(300):
        token, u = sampler.sample(logits)[0], reference.uniform(3, index)
        assert ends[token] - expected[token] - slack <= u <= ends[token] + slack


def test_philox_is_the_published_one():
    """First vector of Random123's kat_vectors; the reference must not share a mistake."""
    assert reference.philox_words(0, 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**53 - 1, 2**64 - 1])
def test_draws_follow_the_random_numbers(seed):
    vocab = 256  # equal shares: the token is the first 8 bits of the random number
    sampler = _native.Sampler(vocab, seed=seed, **NEUTRAL)
    sampled = tokens_of(sampler, np.zeros(vocab, np.float32), 50)
    assert sampled.tolist() == [int(reference.uniform(seed, i) * vocab) for i in range(50)]


def test_draw_depends_on_seed_and_index_only():
    logits = some_logits(500)
    alone = tokens_of(_native.Sampler(500, seed=9), logits, 40)
    one, other = _native.Sampler(500, seed=9), _native.Sampler(500, seed=10)
    mixed = []
    for _ in range(40):
        other.sample(some_logits(500, seed=1))
        mixed.append(one.sample(logits)[0])
    assert mixed == alone.tolist()
    assert tokens_of(_native.Sampler(500, seed=10), logits, 40).tolist() != mixed


class TestGreedy:
    def test_highest_and_lowest_id_of_ties(self):
        sampler = _native.Sampler(1000, temperature=0.0)
        for places in ([999], [0, 999], [517, 518, 700], [3], [126, 127, 128]):
            logits = np.full(1000, -5.0, np.float32)
            logits[places] = 2.5
            assert sampler.sample(logits)[0] == places[0]

    def test_all_equal(self):
        assert _native.Sampler(77, temperature=0.0).sample(np.zeros(77, np.float32))[0] == 0

    def test_after_bias_and_penalties(self):
        options = {"temperature": 0.0, "repetition_penalty": 2.0, "logit_bias": {1: 0.5}}
        sampler = _native.Sampler(4, **options)
        sampler.observe(np.array([0], np.int32))
        logits = np.array([3.0, 1.3, 1.6, -9.0], np.float32)
        # 0: 3/2 = 1.5; 1: 1.8; then 1 was sampled: 1.8/2 = 0.9, and 2 leads; then 1.6/2.
        assert [sampler.sample(logits)[0] for _ in range(3)] == [1, 2, 0]


class TestTies:
    def test_top_k_keeps_those_equal_to_the_kth(self):
        logits = np.array([1, 3, 2, 2, 2, 0], np.float32)
        sampled = tokens_of(_native.Sampler(6, top_k=2, **NEUTRAL), logits, 2000)
        assert set(sampled) == {1, 2, 3, 4}

    def test_top_k_counts_scores_not_probabilities(self):
        """At a huge temperature all probabilities round to the same; the ranks remain."""
        logits = np.arange(100, dtype=np.float32)
        options = {"temperature": 1e30, "top_k": 2, "top_p": 1.0}
        assert set(tokens_of(_native.Sampler(100, **options), logits, 200)) == {98, 99}

    def test_top_p_prefers_lower_ids(self):
        options = {"temperature": 1.0, "top_p": 0.3}
        sampled = tokens_of(_native.Sampler(8, **options), np.zeros(8, np.float32), 500)
        # Before token 2 lie 0.25, which is not more than 0.3; before token 3 lie 0.375.
        assert set(sampled) == {0, 1, 2}

    def test_top_p_at_equality_keeps_the_token_as_meta_does(self):
        logits = np.log(np.array([0.5, 0.25, 0.25])).astype(np.float32)
        sampled = tokens_of(_native.Sampler(3, temperature=1.0, top_p=0.5), logits, 500)
        assert set(sampled) == {0, 1}

    def test_top_p_zero_leaves_one(self):
        logits = np.array([0, 1, 1], np.float32)
        assert set(tokens_of(_native.Sampler(3, temperature=1.0, top_p=0.0), logits, 50)) == {1}

    def test_min_p_one_leaves_the_likeliest(self):
        logits = np.array([0, 1, 1, 0.99], np.float32)
        assert set(tokens_of(_native.Sampler(4, min_p=1.0, **NEUTRAL), logits, 300)) == {1, 2}


class TestOddLogits:
    def test_nan_counts_as_suppressed(self):
        logits = np.array([np.nan, 0, np.nan, 0, -np.inf], np.float32)
        for options in (NEUTRAL, {}, {"top_k": 4}, {"typical_p": 0.9}, {"min_p": 0.1}):
            assert set(tokens_of(_native.Sampler(5, **options), logits, 200)) == {1, 3}
        assert _native.Sampler(5, temperature=0.0).sample(logits)[0] == 1

    def test_infinity_wins(self):
        logits = np.array([1e30, 2, np.inf, 0, np.inf], np.float32)
        for options in (NEUTRAL, {}, {"top_k": 4}, {"typical_p": 0.9}, {"min_p": 0.1}):
            assert set(tokens_of(_native.Sampler(5, **options), logits, 200)) == {2, 4}

    @pytest.mark.parametrize("temperature", [1e-38, 1e-6, 1e6, 3e38])
    def test_extreme_temperatures(self, temperature):
        logits = np.array([0, 1e-3, -np.inf], np.float32)
        options = {"temperature": temperature, "top_p": 1.0}
        sampled = set(tokens_of(_native.Sampler(3, **options), logits, 200))
        assert sampled == ({1} if temperature < 1 else {0, 1})

    def test_largest_floats(self):
        top = np.finfo(np.float32).max
        logits = np.array([top, -top, top, 0], np.float32)
        for options in (NEUTRAL, {}, {"top_k": 3}, {"typical_p": 0.5}):
            assert set(tokens_of(_native.Sampler(4, **options), logits, 200)) == {0, 2}

    @pytest.mark.parametrize("bad", [np.nan, -np.inf])
    def test_nothing_left_raises_and_changes_nothing(self, bad):
        sampler, fresh = _native.Sampler(3, seed=1), _native.Sampler(3, seed=1)
        with pytest.raises(LlamaRtError, match="no token can be sampled"):
            sampler.sample(np.full(3, bad, np.float32))
        logits = some_logits(3)
        assert tokens_of(sampler, logits, 30).tolist() == tokens_of(fresh, logits, 30).tolist()

    def test_bias_suppresses_every_token(self):
        sampler = _native.Sampler(2, logit_bias={0: -math.inf, 1: -math.inf})
        with pytest.raises(LlamaRtError, match="suppressed"):
            sampler.sample(np.zeros(2, np.float32))

    def test_one_token(self):
        sampler = _native.Sampler(1, logprobs=3)
        assert sampler.sample(np.zeros(1, np.float32)) == (0, False, 0.0, [(0, 0.0)])


class TestReport:
    def test_log_probabilities_are_those_of_the_logits_as_given(self):
        logits = some_logits(4000, seed=2, spread=4)
        expected = np.log(reference.softmax(logits.astype(np.float64)))
        options = {"temperature": 0.5, "top_k": 20, "logit_bias": {1: 5.0}, "seed": 4}
        sampler = _native.Sampler(4000, logprobs=5, **options)
        for _ in range(20):
            token, _, logprob, top = sampler.sample(logits)
            assert logprob == pytest.approx(expected[token], abs=2e-6)
            assert [i for i, _ in top] == reference.ranked(logits)[:5].tolist()
            np.testing.assert_allclose([p for _, p in top], np.sort(expected)[::-1][:5], atol=2e-6)

    def test_ties_and_more_than_there_are(self):
        logits = np.array([0, 1, 0, -np.inf], np.float32)
        top = _native.Sampler(4, logprobs=9).sample(logits)[3]
        assert [i for i, _ in top] == [1, 0, 2]
        assert np.exp([p for _, p in top]).sum() == pytest.approx(1)

    @pytest.mark.parametrize("logprobs", [-1, 0])
    def test_only_what_was_asked_for(self, logprobs):
        _, _, logprob, top = _native.Sampler(50, logprobs=logprobs).sample(some_logits(50))
        assert top == []
        assert (logprob == 0.0) == (logprobs == -1)

    def test_does_not_change_what_is_sampled(self):
        logits = some_logits(300)
        quiet = tokens_of(_native.Sampler(300, seed=6), logits, 50)
        assert (
            quiet.tolist()
            == tokens_of(_native.Sampler(300, seed=6, logprobs=4), logits, 50).tolist()
        )

    def test_stop_ids(self):
        sampler = _native.Sampler(4, stop_ids=[2, 3], **NEUTRAL)
        for _ in range(50):
            token, stop, _, _ = sampler.sample(np.zeros(4, np.float32))
            assert stop == (token in (2, 3))


class TestRefusals:
    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("temperature", -0.1),
            ("temperature", math.nan),
            ("temperature", math.inf),
            ("top_p", 1.01),
            ("top_p", -0.1),
            ("min_p", 2.0),
            ("typical_p", math.nan),
            ("repetition_penalty", 0.0),
            ("presence_penalty", math.inf),
            ("frequency_penalty", math.nan),
            ("logit_bias", {4: 1.0}),
            ("logit_bias", {-1: 1.0}),
            ("logit_bias", {0: math.nan}),
            ("logprobs", -2),
        ],
    )
    def test_options(self, option, value):
        with pytest.raises(ConfigError, match=option):
            _native.Sampler(4, **{option: value})

    def test_vocabulary(self):
        with pytest.raises(ConfigError, match="vocab_size"):
            _native.Sampler(0)

    @pytest.mark.parametrize("length", [0, 3, 5])
    def test_other_lengths(self, length):
        with pytest.raises(ShapeError, match=rf"\[4\].*\[{length}\]"):
            _native.Sampler(4).sample(np.zeros(length, np.float32))

    def test_two_dimensions(self):
        with pytest.raises(ShapeError, match="dimension"):
            _native.Sampler(4).sample(np.zeros((1, 4), np.float32))

    @pytest.mark.parametrize("token", [-1, 4])
    def test_history_outside_the_vocabulary(self, token):
        sampler = _native.Sampler(4, repetition_penalty=2.0)
        with pytest.raises(ConfigError, match=f"token {token} "):
            sampler.observe(np.array([1, token], np.int32))
