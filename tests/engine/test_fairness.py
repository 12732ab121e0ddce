"""Who is computed when: the scheduler over a runner that only writes down what it is asked."""
# ruff: noqa: ARG002, EM101

from collections import Counter
from types import SimpleNamespace

import pytest

from llama_rt import CancelledError
from llama_rt.engine.cancellation import CancellationRegistry
from llama_rt.engine.jobs import Request
from llama_rt.engine.scheduler import Scheduler

PAGE = 64


class Runner:
    """Counts tokens instead of computing them; every sampled token is 7."""

    def __init__(self, pages=1000):
        self.steps = []  # {sequence: rows} of each step
        self.lengths = {}
        self.total = pages
        self.during = lambda: None  # called within a step

    def create(self):
        self.lengths[len(self.lengths)] = 0
        return len(self.lengths) - 1

    def fork(self, sequence, length):
        new = self.create()
        self.lengths[new] = length
        return new

    def truncate(self, sequence, length):
        self.lengths[sequence] = length

    def release(self, sequence):
        self.lengths[sequence] = 0

    def cache_pages(self):
        return sum(-(-n // PAGE) for n in self.lengths.values()), self.total

    def step(self, sequences, tokens, samplers, *, cancel, adapters):
        rows = dict(zip(sequences, map(len, tokens), strict=True))
        self.during()
        if cancel.is_set:
            raise CancelledError("abandoned")
        self.steps.append(rows)
        for sequence, count in rows.items():
            self.lengths[sequence] += count
        return [sampled([7] if sampler else []) for sampler in samplers]

    def decode(self, sequences, tokens, samplers, *, steps, max_seconds, cancel, adapters):
        for sequence in sequences:
            self.lengths[sequence] += 1
        return [sampled([7]) for _ in sequences]


def sampled(tokens):
    return SimpleNamespace(
        tokens=tokens, stopped=False, failure="", logprobs=[], top_logprobs=[[] for _ in tokens]
    )


class Text:
    """What a request needs of its detokenizer."""

    stopped, stop_string, text, logprobs = False, "", "", None

    def __init__(self):
        self.tokens = []

    def push(self, tokens, logprobs, top_logprobs):
        self.tokens += tokens

    def finish(self):
        pass


def make(runner, **options):
    registry = CancellationRegistry()
    sizes = {"n_ctx": 4096, "cache_tokens": 64 * runner.total, "max_batch_tokens": 512}
    return Scheduler(runner, registry, **{**sizes, "max_sequences": 64, **options}), registry


def ask(scheduler, length, *, first=0, max_new=1, **options):
    """A request with a prompt of its own; its completion comes to `.done`."""
    prompt = [first, *range(length - 1)]
    request = Request(prompt, object(), Text(), max_new=max_new, seed=0, streaming=False, **options)
    request.done = []
    request.set_callback(request.done.append)
    scheduler.add(request)
    return request


def run(scheduler, until):
    for steps in range(1, 1000):
        scheduler.step()
        if until():
            return steps
    pytest.fail("it never ended")


def test_a_short_prompt_goes_before_long_ones_that_came_first():
    scheduler, _ = make(Runner())
    long = [ask(scheduler, 1900, first=i) for i in range(3)]
    scheduler.step()
    short = ask(scheduler, 10, first=9)
    runner = scheduler._runner
    assert run(scheduler, lambda: short.done) == 1
    assert sum(runner.steps[-1].values()) <= 2 * 10  # and does not wait for many rows of theirs
    assert not any(request.done for request in long)


def test_short_prompts_that_keep_coming_do_not_starve_a_long_one():
    scheduler, _ = make(Runner())
    long = ask(scheduler, 2000, first=1)
    coming = iter(range(2, 1000))

    def ended():
        for _ in range(8):  # more than a step holds
            ask(scheduler, 100, first=next(coming))
        return long.done

    # Passed over for about four times its own tokens, since others age, too.
    assert run(scheduler, ended) <= (5 * 2000 + 2000) // 512


def test_decoding_goes_on_beside_prompts():
    runner = Runner()
    scheduler, _ = make(runner)
    talking = ask(scheduler, 10, first=1, max_new=1000)
    run(scheduler, lambda: talking.is_decoding)
    ask(scheduler, 1900, first=2)
    for _ in range(5):
        before = talking.sampled_count
        scheduler.step()
        assert talking.sampled_count == before + 1
        assert sum(runner.steps[-1].values()) <= 64 + 1


def test_an_arrival_abandons_a_long_step_once():
    runner = Runner()
    scheduler, registry = make(runner)
    long = ask(scheduler, 1900, first=1)
    arrivals = []

    def arrive():
        if len(arrivals) < 3:
            arrivals.append(ask(scheduler, 10, first=2 + len(arrivals)))
            registry.make_way(10)

    runner.during = arrive
    scheduler.step()
    assert (long.fed, runner.steps) == (0, [])  # abandoned: nothing was kept of it
    for _ in range(3):  # the next ones are short, and end whoever arrives, until it went on
        scheduler.step()
        assert sum(runner.steps[-1].values()) <= 64
    assert arrivals[0].done
    assert long.fed > 0
    run(scheduler, lambda: long.done)
    assert all(request.done for request in arrivals)


def test_a_short_step_is_not_abandoned_for_an_arrival():
    runner = Runner()
    scheduler, registry = make(runner)
    ask(scheduler, 30, first=1)
    runner.during = lambda: registry.make_way(1)
    scheduler.step()
    assert len(runner.steps) == 1


def test_a_cancel_is_seen_within_a_step_that_others_share():
    runner = Runner()
    scheduler, registry = make(runner)
    leaving, staying = (ask(scheduler, 400, first=i) for i in range(2))
    runner.during = lambda: registry.cancel(leaving)
    scheduler.step()
    assert runner.steps == []
    runner.during = lambda: None
    scheduler.step()
    assert leaving.done[0].finish_reason == "cancelled"
    run(scheduler, lambda: staying.done)
    assert staying.done[0].finish_reason == "length"


def test_time_that_is_over_ends_a_request_with_what_there_is():
    scheduler, _ = make(Runner())
    late = ask(scheduler, 10, max_new=10**6, timeout=0.05)
    other = ask(scheduler, 10, first=3, max_new=3)
    run(scheduler, lambda: other.done)
    for _ in range(10**6):
        scheduler.step()
        if late.done:
            break
    done = late.done[0]
    assert (done.finish_reason, done.stop_reason) == ("cancelled", "timeout")
    assert len(done.tokens) > 0


def test_a_deadline_abandons_a_long_step():
    import time

    runner = Runner()
    scheduler, registry = make(runner)
    late = ask(scheduler, 1900, timeout=0.02)

    def wait():
        end = time.perf_counter() + 5
        while not registry.flag.is_set and time.perf_counter() < end:
            time.sleep(0.001)

    runner.during = wait
    scheduler.step()
    scheduler.step()
    assert runner.steps == []
    assert late.done[0].stop_reason == "timeout"


def test_one_that_waits_for_anothers_beginning_holds_nobody_back():
    runner = Runner()
    scheduler, _ = make(runner)
    first = ask(scheduler, 1900, first=1)
    scheduler.step()
    same = ask(scheduler, 1900, first=1)
    other = ask(scheduler, 300, first=2)
    run(scheduler, lambda: other.done)
    assert not same.done
    run(scheduler, lambda: first.done and same.done)
    assert same.cached_tokens == 1899


def test_a_higher_priority_is_admitted_first():
    scheduler, _ = make(Runner(), max_sequences=1)
    order = []
    running = ask(scheduler, 10, first=1, max_new=5)
    scheduler.step()
    waiting = {
        name: ask(scheduler, 10, first=i, priority=p)
        for i, (name, p) in enumerate(
            [("plain", 0), ("low", -1), ("high", 5), ("plain too", 0)], start=2
        )
    }
    for name, request in waiting.items():
        request.set_callback(lambda _, name=name: order.append(name))
    run(scheduler, lambda: len(order) == 4)
    assert running.done
    assert order == ["high", "plain", "plain too", "low"]


def test_chats_in_turn_find_what_they_said():
    """Thirty-two conversations, a turn of each in order: nothing is computed twice."""
    runner = Runner()
    scheduler, _ = make(runner)
    chats = [[9, *([i] * 60)] for i in range(32)]
    asked = Counter()
    for turn in range(4):
        for ids in chats:
            request = Request(ids, object(), Text(), max_new=20, seed=0, streaming=False)
            request.set_callback(lambda _: None)
            scheduler.add(request)
            run(scheduler, lambda: scheduler.is_idle)
            if turn:
                asked["could"] += len(ids) - 30  # all but what the user said now
                asked["was"] += request.cached_tokens
            ids += [*request.detokenizer.tokens, *([99 + turn] * 30)]
    assert asked["was"] >= 0.95 * asked["could"]
    counters = scheduler.counters
    assert counters.prefix_hit >= asked["was"]


def test_a_full_cache_evicts_what_is_kept_before_it_refuses():
    runner = Runner(pages=20)
    scheduler, _ = make(runner, n_ctx=640)
    for i in range(10):
        request = ask(scheduler, 600, first=i)
        run(scheduler, lambda request=request: request.done)
        assert request.done[0].finish_reason == "length"
        assert runner.cache_pages()[0] <= 20
