"""Opening backends: levels, threads, and what is refused."""

import pytest

from llama_rt import _native
from llama_rt.errors import ConfigError, LlamaRtError

ORDER = _native.isa_names()


def test_levels_are_named_lowest_first():
    levels = _native.cpu_info().tiers
    assert levels[0] == "scalar"
    assert levels == [name for name in ORDER if name in levels]
    assert ORDER[0] == "scalar"
    assert len(set(ORDER)) == len(ORDER)


def test_default_is_the_best_tier(monkeypatch):
    monkeypatch.delenv("LLAMA_RT_ISA", raising=False)
    assert _native.open_backend("cpu").isa == _native.cpu_info().tiers[-1]
    assert _native.open_backend("auto").threads >= 1


def test_a_named_tier_is_taken(level):
    backend = _native.open_backend("cpu", isa=level, threads=1)
    assert (backend.name, backend.isa, backend.threads) == ("cpu", level, 1)


def test_environment_caps_the_default(monkeypatch):
    monkeypatch.setenv("LLAMA_RT_ISA", "scalar")
    assert _native.open_backend("cpu").isa == "scalar"


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="sse9"):
        _native.open_backend("cpu", isa="sse9")
    with pytest.raises(ConfigError, match="tpu"):
        _native.open_backend("tpu")


def test_a_tier_above_the_machine_s_own_is_a_cap():
    usable = _native.cpu_info().tiers
    for name in ORDER:
        below = [level for level in usable if ORDER.index(level) <= ORDER.index(name)]
        assert _native.open_backend("cpu", isa=name).isa == below[-1]


@pytest.mark.parametrize("threads", [0, -1, 10**9])
def test_absurd_thread_counts_are_refused(threads):
    with pytest.raises(LlamaRtError, match=str(threads)):
        _native.open_backend("cpu", threads=threads)


def test_cpu_info_is_plausible():
    info = _native.cpu_info()
    assert 1 <= info.default_threads <= info.cores
    assert info.quota >= 0
    assert info.model
