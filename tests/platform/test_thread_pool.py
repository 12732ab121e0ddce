"""The pool: who does what, errors, several callers, fork, and what it leaves alone."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from llama_rt import _native
from llama_rt.errors import ConfigError, LlamaRtError


def split(threads, chunks, **options):
    """Workers of each chunk; the binding checks that every chunk was done once per repeat."""
    workers = _native.pool_split(threads, chunks, **options)
    assert len(workers) == chunks
    assert set(workers) <= set(range(max(1, min(threads, chunks))))
    return workers


@pytest.mark.parametrize("threads", [-1, 0, 1, 2, 3, 5, 16])
@pytest.mark.parametrize("chunks", [0, 1, 2, 3, 7, 64, 1000])
def test_every_chunk_is_done_once(threads, chunks):
    for _ in range(3):
        split(threads, chunks, repeats=5)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("chunks", [1, 2, 50, 5000])
def test_dynamic_split_does_every_chunk(threads, chunks):
    split(threads, chunks, dynamic=True)


def test_many_small_jobs():
    split(2, 8, repeats=20000)
    split(4, 8, repeats=500)


def test_pool_grows_to_what_was_asked(run_python):
    script = """
from llama_rt import _native
sizes = [_native.pool_size()]
for threads, chunks in ((2, 10), (6, 10), (3, 10), (50, 4)):
    _native.pool_split(threads, chunks)
    sizes.append(_native.pool_size())
print(sizes)
"""
    assert run_python(script) == "[1, 2, 6, 6, 6]"


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("place", [0, 20, 39])
def test_an_error_reaches_the_caller_and_the_pool_lives_on(threads, place, dynamic):
    for _ in range(20):
        with pytest.raises(LlamaRtError, match=f"failed at chunk {place}$"):
            _native.pool_split(threads, 40, dynamic=dynamic, fail_at=place)
    split(threads, 40)


def test_absurd_sizes_are_refused():
    with pytest.raises(ConfigError, match="chunks"):
        _native.pool_split(2, 1 << 40)


def test_callers_take_turns():
    failures = []

    def call(threads, chunks):
        for round_ in range(100):
            try:
                split(threads, chunks, repeats=1 + round_ % 4)
            except (AssertionError, LlamaRtError) as error:
                failures.append(error)

    callers = [threading.Thread(target=call, args=(2 + i % 3, 10 + i)) for i in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not failures


def test_a_forked_child_gets_its_own_pool(run_python):
    script = """
import os, warnings
from llama_rt import _native
warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads is what is tested
_native.pool_split(3, 9)
child = os.fork()
if child == 0:
    before = _native.pool_size()
    workers = _native.pool_split(2, 4, repeats=50)
    os._exit(0 if (before, len(workers), _native.pool_size()) == (1, 4, 2) else 1)
status = os.waitpid(child, 0)[1]
print(status, len(_native.pool_split(3, 3)), _native.pool_size())
"""
    assert run_python(script) == "0 3 3"


def test_the_caller_is_left_as_it_was():
    mask = os.sched_getaffinity(0)
    _native.pool_split(3, 30, repeats=100)
    assert os.sched_getaffinity(0) == mask
    denormal = np.float32(1e-40)  # 0 if flushing had been switched on
    assert denormal * np.float32(0.5) > 0


def test_idle_workers_use_no_time():
    _native.pool_split(4, 40, repeats=10)
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.4)
    assert time.process_time() - before < 0.1


@pytest.mark.linux
def test_workers_leave_signals_to_others():
    _native.pool_split(2, 2)
    interrupt, fault = 1 << (2 - 1), 1 << (11 - 1)  # SIGINT, SIGSEGV
    masks = []
    for task in Path("/proc/self/task").iterdir():
        if (task / "comm").read_text().startswith("llama_rt-"):
            status = (task / "status").read_text()
            masks.append(int(status.split("SigBlk:")[1].split()[0], 16))
    assert masks
    assert all(mask & interrupt and not mask & fault for mask in masks)


@pytest.mark.linux
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one CPU")
def test_a_worker_that_slept_wakes_elsewhere_than_its_caller(run_python):
    """Behind its caller it would wait for the system to notice, for milliseconds."""
    script = """
import os, time
from pathlib import Path
from llama_rt import _native
first, second = sorted(os.sched_getaffinity(0))[:2]
mains = {first, second}
os.sched_setaffinity(0, mains)
for _ in range(20):
    time.sleep(0.02)  # longer than any worker spins
    _native.pool_split(2, 64, repeats=3)
tasks = [t for t in Path("/proc/self/task").iterdir() if "llama_rt-" in (t / "comm").read_text()]
assert os.sched_getaffinity(0) == mains
print([len(os.sched_getaffinity(int(t.name)) & mains) for t in tasks])
"""
    assert run_python(script, LLAMA_RT_THREADS="2") == "[1]"
