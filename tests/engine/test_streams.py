"""Streams: the same text as in one piece, and an end whenever the caller wants it."""

import gc
import math
import signal
import threading
import time

import pytest

from llama_rt import Chunk, ConfigError, Llama, LlamaRtError

TEXT = "The llama drank"


def joined(chunks):
    return "".join(chunk.text for chunk in chunks), [t for c in chunks for t in c.tokens]


@pytest.mark.parametrize("stop", [(), "e", ["a", "th"]])
@pytest.mark.parametrize("seed", range(4))
def test_chunks_are_the_completion(llm, seed, stop):
    whole = llm.generate(TEXT, seed=seed, stop=stop, max_tokens=80, logprobs=2)
    stream = llm.stream(TEXT, seed=seed, stop=stop, max_tokens=80, logprobs=2)
    chunks = list(stream)
    assert all(isinstance(chunk, Chunk) for chunk in chunks)
    assert joined(chunks) == (whole.text, whole.tokens)
    assert [entry for chunk in chunks for entry in chunk.logprobs] == whole.logprobs
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].finish_reason == whole.finish_reason
    assert stream.completion.text == whole.text
    assert stream.completion.seed == seed


def test_stop_strings_across_tokens(llm):
    whole = llm.generate(TEXT, seed=1, max_tokens=80).text
    for start in range(0, len(whole) - 6, 5):
        string = whole[start : start + 6]
        found = llm.generate(TEXT, seed=1, max_tokens=80, stop=string)
        assert found.text == whole[: whole.index(string)]
        assert found.finish_reason == "stop"


def test_stop_ids_end_the_text_and_are_not_in_it(llm):
    whole = llm.generate(TEXT, seed=1, max_tokens=40)
    token = whole.tokens[10]
    found = llm.generate(TEXT, seed=1, max_tokens=40, stop=[token])
    assert found.tokens == whole.tokens[: whole.tokens.index(token)]
    assert found.finish_reason == "stop"


def test_a_stop_string_may_be_the_text_of_a_control_token(llm):
    """Its text is never in the decoded text."""
    begin = llm.tokenizer.bos_id
    name = llm.tokenizer.piece(begin)
    told = {begin: math.inf}
    found = llm.generate(TEXT, max_tokens=4, stop=["x", name], logit_bias=told)
    assert (found.finish_reason, found.tokens) == ("stop", [])
    assert len(llm.generate(TEXT, max_tokens=4, stop=["x"], logit_bias=told).tokens) == 4


def test_a_closed_stream_ends_soon(slow):
    """Its text would go on to the end of the context, for seconds."""
    stream = slow.stream(TEXT, temperature=0.0)
    first = next(stream)
    stream.close()
    assert list(stream) == []
    assert stream.completion.finish_reason == "cancelled"
    written = stream.completion.usage.completion_tokens
    whole = slow.generate(TEXT, temperature=0.0, max_tokens=written + 20)
    assert whole.text.startswith(stream.completion.text)
    assert stream.completion.text.startswith(first.text)


def test_a_stop_id_outside_of_the_vocabulary_is_refused(llm):
    for token in (llm.config.vocab_size, 2**40):
        with pytest.raises(ConfigError, match=f"stop: id {token} is not in the vocabulary"):
            llm.generate(TEXT, stop=[token])


def test_two_threads_share_a_stream(llm):
    stream = llm.stream(TEXT, seed=1, max_tokens=80)
    taken = [[], []]
    threads = [threading.Thread(target=lambda t=t: t.extend(stream), daemon=True) for t in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    tokens = sorted(token for chunks in taken for chunk in chunks for token in chunk.tokens)
    assert tokens == sorted(llm.generate(TEXT, seed=1, max_tokens=80).tokens)


def test_leaving_the_block_or_dropping_it_cancels(slow):
    with slow.stream(TEXT) as stream:
        next(stream)
    assert stream.completion.finish_reason == "cancelled"
    stream = slow.stream(TEXT)
    next(stream)
    del stream
    gc.collect()
    wait_until_idle()


def wait_until_idle(seconds=5.0):
    for thread in threading.enumerate():
        if thread.name == "llama_rt":
            thread.join(timeout=seconds)
            assert not thread.is_alive()


def seconds_for_prompt(slow, prompt):
    start = time.perf_counter()
    slow.generate(prompt, max_tokens=1)
    return time.perf_counter() - start


def test_a_long_prompt_is_cancelled_within_it(slow, long_prompt):
    needed = seconds_for_prompt(slow, long_prompt)
    start = time.perf_counter()
    stream = slow.stream([4, *long_prompt])
    time.sleep(min(0.05, needed / 10))
    stream.close()
    done = stream.completion
    assert time.perf_counter() - start < needed / 2
    assert (done.finish_reason, done.tokens, done.text) == ("cancelled", [], "")


def test_cancelled_work_leaves_the_others_and_the_cache_as_they_were(slow, long_prompt):
    alone = slow.generate(TEXT, seed=3, max_tokens=30)
    other = slow.stream(TEXT, seed=3, max_tokens=30)
    cancelled = slow.stream([9, *long_prompt])
    time.sleep(0.05)
    cancelled.close()
    assert other.completion.tokens == alone.tokens
    assert cancelled.completion.finish_reason == "cancelled"
    again = slow.generate([9, *long_prompt[:600]], seed=4, max_tokens=20)
    with Llama.load(slow.path, threads=1, reproducible=True) as fresh:
        expected = fresh.generate([9, *long_prompt[:600]], seed=4, max_tokens=20)
    assert again.tokens == expected.tokens


@pytest.mark.parametrize("call", ["generate", "logits", "stream"])
def test_ctrl_c_is_prompt_and_harmless(slow, long_prompt, call):
    before = slow.generate(TEXT, seed=3, max_tokens=5)
    needed = seconds_for_prompt(slow, [8, *long_prompt])
    main = threading.main_thread().ident
    timer = threading.Timer(min(0.1, needed / 5), signal.pthread_kill, [main, signal.SIGINT])
    start = time.perf_counter()
    timer.start()
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - whichever statement it hits
        ids = [7, *long_prompt]
        result = getattr(slow, call)(ids)
        list(result)
    took = time.perf_counter() - start
    timer.join()
    assert took < needed / 2
    assert slow.generate(TEXT, seed=3, max_tokens=5).tokens == before.tokens
    wait_until_idle()


def test_closing_the_model_ends_its_streams(slow_file, long_prompt):
    llm = Llama.load(slow_file, threads=1)
    started, waiting = llm.stream(TEXT), llm.stream(long_prompt)
    next(started)
    llm.close()
    assert started.completion.finish_reason == "cancelled"
    assert waiting.completion.finish_reason == "cancelled"
    with pytest.raises(LlamaRtError, match="closed"):
        llm.generate(TEXT)
    llm.close()


def test_a_failure_reaches_every_caller_and_passes(llm, monkeypatch):
    """A fault in the native module must not leave anybody waiting."""
    scheduler = llm._loaded.engine._scheduler

    class Broken:
        def __getattr__(self, name):
            if name in ("step", "decode", "forward"):
                msg = f"{name} is broken"
                raise ValueError(msg)
            return getattr(runner, name)

    runner = scheduler._runner
    monkeypatch.setattr(scheduler, "_runner", Broken())
    monkeypatch.setattr(scheduler._forwards, "_runner", Broken())
    with pytest.raises(ValueError, match="broken"):
        llm.generate(["a", "b"])
    with pytest.raises(ValueError, match="broken"):
        llm.logits([1, 2])
    with pytest.raises(ValueError, match="broken"):
        list(llm.stream("a"))
    monkeypatch.undo()
    assert llm.generate("a", max_tokens=3, seed=1).usage.completion_tokens <= 3


def test_text_that_cannot_be_made_is_its_own_callers_failure(llm, monkeypatch):
    from llama_rt.engine.jobs import Request

    accept = Request.accept

    def picky(self, sampled):
        if self.history[1] == 77:
            msg = "no text for this"
            raise ValueError(msg)
        return accept(self, sampled)

    monkeypatch.setattr(Request, "accept", picky)
    good, bad = llm.stream([1, 50], seed=1, max_tokens=20), llm.stream([1, 77], max_tokens=20)
    with pytest.raises(ValueError, match="no text"):
        list(bad)
    assert list(bad) == []
    with pytest.raises(ValueError, match="no text"):
        bad.completion  # noqa: B018 - it must not wait for ever
    tokens = good.completion.tokens
    assert tokens == llm.generate([1, 50], seed=1, max_tokens=20).tokens


def test_streams_that_the_collector_finds_block_nobody(llm, monkeypatch):
    """It may find them in a thread that is just starting, before its first own statement."""
    start = threading.Thread.start
    dropped = llm.stream(TEXT, max_tokens=1)
    list(dropped)
    wait_until_idle()
    blocked = []

    def start_with_collection(self):
        collector = threading.Thread(target=dropped._engine.cancel, args=(dropped._request,))
        start(collector)
        collector.join(timeout=5)
        blocked.append(collector.is_alive())
        start(self)

    monkeypatch.setattr(threading.Thread, "start", start_with_collection)
    llm.generate(TEXT, max_tokens=1)
    assert blocked == [False]
