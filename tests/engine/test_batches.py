"""A request's result is its own: alone, in a batch, with others, with and without reuse."""

import threading

import numpy as np
import pytest

from llama_rt import CapacityError, Llama, SamplingParams

PROMPTS = [
    "The llama drank",
    "water.",
    "",
    "It was in 2026 that \N{SNOWMAN}",
    [1, 40, 41, 42],
    "The llama drank water and then",
    list(range(3, 120)),
]
GREEDY = {"temperature": 0.0, "max_tokens": 40}
SEEDED = {"temperature": 1.0, "seed": 5, "max_tokens": 40}
PENALTIES = {
    "params": SamplingParams(
        repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.2, top_k=50, seed=9
    ),
    "max_tokens": 40,
}


def outcome(completion):
    return completion.text, completion.tokens, completion.finish_reason, completion.seed


@pytest.mark.parametrize("options", [GREEDY, SEEDED, PENALTIES], ids=["greedy", "seed", "penalty"])
@pytest.mark.parametrize("quantize", [None, "f16", "bf16", "q8_0", "q4_0"])
def test_a_batch_is_its_members(tiny_hf_folder, quantize, options):
    with Llama.load(tiny_hf_folder, threads=1, quantize=quantize, reproducible=True) as batch_llm:
        batch = batch_llm.generate(PROMPTS, **({"seed": 3} | options))
    for prompt, together in zip(PROMPTS, batch, strict=True):
        with Llama.load(tiny_hf_folder, threads=1, quantize=quantize, reproducible=True) as fresh:
            alone = fresh.generate(prompt, **({"seed": 3} | options))
        assert outcome(together) == outcome(alone)


def test_greedy_takes_the_most_likely_token(llm):
    ids = llm.tokenizer.encode("The llama")
    sampled = llm.generate("The llama", temperature=0.0, max_tokens=20).tokens
    rows = llm.logits(ids + sampled[:-1])[len(ids) - 1 :]
    stops = {*llm.tokenizer.stop_ids, *llm.tokenizer.unsampled_ids}
    assert sampled == rows.argmax(axis=1).tolist()
    assert not stops & set(sampled)


def test_more_requests_than_one_batch_holds(llm):
    prompts = [[1, 3 + i] for i in range(150)]
    batch = llm.generate(prompts, max_tokens=5, temperature=0.0)
    for i in (0, 63, 64, 149):
        assert (
            outcome(batch[i])[:3]
            == outcome(llm.generate(prompts[i], max_tokens=5, temperature=0.0))[:3]
        )


def test_reused_cache_changes_no_bit(tiny_hf_folder):
    """The same questions to a model that has seen their beginnings and to fresh ones."""
    start = list(range(3, 90))
    prompts = [start, [*start, 7, 8, 9], [*start[:40], 200], start[:30], [*start, 7, 8, 9, 10]]
    with Llama.load(tiny_hf_folder, threads=1, reproducible=True) as used:
        for prompt in prompts:
            warm = used.generate(prompt, seed=1, max_tokens=30, logprobs=3)
            with Llama.load(tiny_hf_folder, threads=1, reproducible=True) as fresh:
                cold = fresh.generate(prompt, seed=1, max_tokens=30, logprobs=3)
            assert outcome(warm) == outcome(cold)
            assert warm.logprobs == cold.logprobs
            assert cold.usage.cached_tokens == 0
        assert warm.usage.cached_tokens >= len(start)


def test_a_conversation_only_pays_for_what_is_new(llm):
    ids = llm.tokenizer.encode("A beginning that is quite long and is said again")
    first = llm.generate(ids, max_tokens=12, temperature=0.0)
    again = llm.generate([*ids, *first.tokens, 50, 51], max_tokens=4, temperature=0.0)
    # All of it but the last token sampled, which was never fed.
    assert again.usage.cached_tokens >= len(ids) + len(first.tokens) - 1
    assert again.timings.prompt_tokens == again.usage.prompt_tokens - again.usage.cached_tokens


def test_prompts_of_one_batch_share_their_beginning(llm, tiny_hf_folder):
    start = [1, *range(60, 160)]
    prompts = [start, [*start, 5], [*start, 5, 6, 7], start, [1, 2], [*start[:50], 9]]
    batch = llm.generate(prompts, seed=4, max_tokens=10, cache_salt="of this test")
    cached = [c.usage.cached_tokens for c in batch]
    assert cached[0] == 0
    assert cached[1:4] == [101, 101, 100]
    assert cached[4] <= 1
    assert cached[5] == 50
    for prompt, together in zip(prompts, batch, strict=True):
        with Llama.load(tiny_hf_folder, threads=1, reproducible=True) as fresh:
            assert outcome(together) == outcome(fresh.generate(prompt, seed=4, max_tokens=10))


def test_threads_share_one_model(llm):
    alone = [llm.generate([1, 10 + i], seed=i, max_tokens=60) for i in range(12)]
    found = {}

    def work(i):
        found[i] = llm.generate([1, 10 + i], seed=i, max_tokens=60)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    rows = [llm.logits([1, 2, 3, 4 + i]) for i in range(5)]  # between their steps
    for thread in threads:
        thread.join()
    assert [outcome(found[i]) for i in range(12)] == [outcome(c) for c in alone]
    np.testing.assert_array_equal(rows[0], llm.logits([1, 2, 3, 4]))


def test_the_driver_lives_only_while_there_is_work(llm):
    llm.generate("a", max_tokens=3)
    for thread in threading.enumerate():
        if thread.name == "llama_rt":
            thread.join(timeout=5)
            assert not thread.is_alive()


def test_without_new_threads_the_caller_does_the_work(llm, monkeypatch):
    """Python 3.12 starts none once its main thread has ended."""
    expected = llm.generate(["a", "b"], seed=1, max_tokens=8)
    test_the_driver_lives_only_while_there_is_work(llm)

    def start(_):
        msg = "can't start new thread"
        raise RuntimeError(msg)

    monkeypatch.setattr(threading.Thread, "start", start)
    assert [outcome(c) for c in llm.generate(["a", "b"], seed=1, max_tokens=8)] == [
        outcome(c) for c in expected
    ]
    assert "".join(c.text for c in llm.stream("a", seed=1, max_tokens=8)) == expected[0].text


@pytest.fixture
def cramped(tiny_hf_folder, monkeypatch):
    """A model with so little free memory that its cache holds about two short sequences."""
    from llama_rt.api import load
    from llama_rt.checkpoint import open_checkpoint
    from llama_rt.memory import estimate_memory

    needed = estimate_memory(
        open_checkpoint(tiny_hf_folder), quantize=None, n_ctx=256, kv_dtype="f16"
    )
    free = needed.weights + needed.workspace + 300 * needed.kv_per_token
    monkeypatch.setattr(load, "free_memory", lambda _: free)
    with Llama.load(tiny_hf_folder, threads=1, reproducible=True) as model:
        yield model


def test_a_full_cache_makes_requests_wait_but_changes_none(cramped, llm):
    prompts = [[1, 20 + i, *range(30, 60)] for i in range(8)]
    crowded = cramped.generate(prompts, seed=2, max_tokens=150)
    uncrowded = [llm.generate(prompt, seed=2, max_tokens=150) for prompt in prompts]
    assert [outcome(c) for c in crowded] == [outcome(c) for c in uncrowded]
    assert cramped.generate([1, 2], seed=1, max_tokens=5).finish_reason


def test_forward_passes_fit_in_a_full_cache(cramped, llm):
    ids = list(range(3, 200))
    streams = [cramped.stream([1, 20 + i], seed=i, max_tokens=100) for i in range(3)]
    np.testing.assert_array_equal(cramped.logits(ids), llm.logits(ids))
    for i, stream in enumerate(streams):
        assert outcome(stream.completion) == outcome(
            llm.generate([1, 20 + i], seed=i, max_tokens=100)
        )


def test_what_can_never_fit_is_refused_at_once(llm):
    with pytest.raises(CapacityError, match=r"256 tokens.*context of 256"):
        llm.generate([5] * 256)
    with pytest.raises(CapacityError, match="300 tokens"):
        llm.stream([5] * 300)
    assert llm.generate([5] * 256, max_tokens=0).tokens == []
    assert llm.generate([5] * 255, temperature=0.0).usage.total_tokens <= 256
