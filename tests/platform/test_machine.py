"""What is found out about processor and memory, against the kernel's own words."""

from __future__ import annotations

import os
import platform
import signal
import time
from pathlib import Path

import pytest

from llama_rt import _native
from llama_rt.errors import CapacityError, ConfigError

PRINT_CPU = """
from llama_rt import _native
info = _native.cpu_info()
print(info.cores, info.physical_cores, info.default_threads)
"""


def cpu_flags():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return set(line.split(":")[1].split())
    pytest.skip("the kernel lists no flags for this processor")
    return set()


@pytest.mark.linux
@pytest.mark.skipif(platform.machine() != "x86_64", reason="levels are those of x86-64")
def test_levels_are_those_of_the_kernels_flags():
    flags = cpu_flags()
    needs = {
        "avx2": {"avx2", "fma", "f16c", "bmi2"},
        "avx2_vnni": {"avx2", "avx_vnni"},
        "avx512": {"avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"},
        "avx512_bf16": {"avx512f", "avx512_vnni", "avx512_bf16"},
        "amx": {"avx512_bf16", "amx_tile", "amx_int8", "amx_bf16"},
    }
    expected = ["scalar", *(level for level, wanted in needs.items() if wanted <= flags)]
    assert _native.cpu_info().tiers == expected


def test_cores_are_those_of_the_mask(run_python):
    mask = os.sched_getaffinity(0)
    cores, physical, threads = map(int, run_python(PRINT_CPU).split())
    assert cores == len(mask)
    siblings = {
        Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
        if Path(f"/sys/devices/system/cpu/cpu{cpu}/topology").exists()
        else str(cpu)
        for cpu in mask
    }
    assert physical == len(siblings)
    quota = _native.cgroup_quota("")
    assert threads == max(1, min(physical, int(quota)) if quota else physical)


@pytest.mark.linux
def test_a_narrow_mask_means_one_thread(run_python):
    one = min(os.sched_getaffinity(0))
    narrow = f"import os; os.sched_setaffinity(0, {{{one}}})\n"
    assert run_python(narrow + PRINT_CPU) == "1 1 1"


@pytest.mark.parametrize("count", [1, 3, 17])
def test_environment_sets_the_thread_count(run_python, count):
    assert run_python(PRINT_CPU, LLAMA_RT_THREADS=str(count)).split()[2] == str(count)


@pytest.mark.parametrize("text", ["", "0", "-2", "two", "2 ", "2x", "1e3", "99999999999999"])
def test_nonsense_in_the_environment_is_ignored(run_python, text):
    assert run_python(PRINT_CPU, LLAMA_RT_THREADS=text) == run_python(PRINT_CPU)


@pytest.mark.linux
def test_model_is_the_brand_string():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            assert _native.cpu_info().model == line.split(":", 1)[1].strip()


def test_available_memory_is_within_the_machine():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < _native.available_memory() <= total


class TestReadBandwidth:
    @pytest.mark.parametrize("threads", [1, 2, 3])
    def test_is_a_plausible_speed(self, threads):
        speed = _native.read_bandwidth(threads, 16 << 20, 0.02)
        assert 1e8 < speed < 1e13

    @pytest.mark.parametrize(
        ("arguments", "name"),
        [
            ((0, 1 << 24, 0.1), "threads"),
            ((1, 0, 0.1), "buffer_bytes"),
            ((1, 1 << 24, 0.0), "seconds"),
            ((1, 1 << 24, float("nan")), "seconds"),
        ],
    )
    def test_refuses_nonsense(self, arguments, name):
        with pytest.raises(ConfigError, match=name):
            _native.read_bandwidth(*arguments)

    def test_refuses_a_buffer_that_does_not_fit(self):
        with pytest.raises(CapacityError, match="available"):
            _native.read_bandwidth(1, 1 << 50, 0.1)

    def test_can_be_interrupted(self):
        def interrupt(*_):
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGALRM, interrupt)
        began = time.monotonic()
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(KeyboardInterrupt):
                _native.read_bandwidth(2, 16 << 20, 60.0)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert time.monotonic() - began < 30
