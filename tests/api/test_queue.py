"""What a caller may ask of the queue: bounds, time, priority, and what it says of itself."""

import re
import threading

import pytest

from llama_rt import ConfigError, Llama, QueueFullError


@pytest.fixture
def bounded(tiny_hf_folder):
    with Llama.load(tiny_hf_folder, threads=1, max_waiting=2) as llm:
        yield llm


def test_more_than_may_wait_is_refused_and_nothing_is_queued(bounded):
    running = 64  # requests of one batch
    with pytest.raises(QueueFullError, match=r"at most 2 may wait \(max_waiting\)"):
        bounded.generate(["a"] * (running + 3), max_tokens=2)
    assert len(bounded.generate(["a"] * (running + 2), max_tokens=2)) == running + 2
    assert bounded.stats().generated_tokens == 2 * (running + 2)


def test_time_that_is_over_gives_what_there_is(tiny_hf_folder):
    with Llama.load(tiny_hf_folder, threads=1) as llm:
        done = llm.generate([[1, 2]] * 64, max_tokens=250, temperature=0.0, timeout=0.01)
    assert {(c.finish_reason, c.stop_reason) for c in done} <= {
        ("cancelled", "timeout"),
        ("length", None),
        ("stop", None),
    }
    assert done[0].stop_reason == "timeout"


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"timeout": 0}, ConfigError, "timeout: expected seconds above 0, got 0"),
        ({"timeout": float("nan")}, ConfigError, "timeout: expected seconds above 0, got nan"),
        ({"timeout": "1"}, TypeError, "timeout: expected seconds or None, got str"),
        ({"priority": 0.5}, TypeError, "priority: expected an int, got float"),
        ({"cache_salt": None}, TypeError, "cache_salt: expected a str, got NoneType"),
    ],
)
def test_wrong_values_are_named(bounded, options, error, says):
    with pytest.raises(error, match=re.escape(says)):
        bounded.generate("a", max_tokens=1, **options)


def test_the_stop_that_came_is_named(bounded):
    plain = bounded.generate([1, 7], max_tokens=30, temperature=0.0)
    assert plain.stop_reason is None
    by_id = bounded.generate([1, 7], max_tokens=30, temperature=0.0, stop=[plain.tokens[5]])
    assert (by_id.finish_reason, by_id.stop_reason) == ("stop", plain.tokens[5])
    text = plain.text[4:6]
    by_text = bounded.generate([1, 7], max_tokens=30, temperature=0.0, stop=["never", text])
    assert (by_text.finish_reason, by_text.stop_reason) == ("stop", text)


def test_the_cache_of_one_salt_is_no_others(bounded):
    prompt = list(range(3, 90))
    salts = ("mine", "mine", "yours")
    done = [bounded.generate(prompt, max_tokens=1, cache_salt=salt) for salt in salts]
    assert [c.usage.cached_tokens for c in done] == [0, 86, 0]


def test_a_smaller_cache(tiny_hf_folder):
    page = 64 * 2 * 2 * 2 * 16 * 2  # tokens, keys and values, layers, heads of 16, bytes
    with Llama.load(tiny_hf_folder, threads=1, kv_cache_bytes=3 * page + 1) as llm:
        assert llm.memory()["kv_cache_max"] == 3 * page
        assert llm.stats().pages == 3
    with pytest.raises(ConfigError, match=rf"at least a page, {page} bytes, got 1"):
        Llama.load(tiny_hf_folder, kv_cache_bytes=1)
    with pytest.raises(TypeError, match="kv_cache_bytes: expected an int or None, got float"):
        Llama.load(tiny_hf_folder, kv_cache_bytes=1e9)


def test_it_says_what_it_does(tiny_hf_folder):
    with Llama.load(tiny_hf_folder, threads=1) as llm:
        before = llm.stats()
        assert (before.running, before.waiting, before.pages_used) == (0, 0, 0)
        prompt = list(range(3, 103))
        first = llm.generate(prompt, max_tokens=5, temperature=0.0)
        llm.generate([*prompt, 9], max_tokens=1)
        after = llm.stats()
    assert (after.running, after.waiting, after.preempted) == (0, 0, 0)
    assert (after.prefix_asked, after.prefix_hit) == (201, 100)
    assert after.prompt_tokens == 100  # the last one alone is decoded
    assert after.generated_tokens == len(first.tokens) + 1
    assert 0 < after.pages_used <= after.pages


def test_it_can_be_asked_while_it_works(bounded):
    seen = []
    with bounded.stream([1, 2], max_tokens=200) as stream:
        thread = threading.Thread(target=lambda: seen.append(bounded.stats()))
        next(stream)
        thread.start()
        thread.join()
    assert seen[0].running + seen[0].waiting <= 1
