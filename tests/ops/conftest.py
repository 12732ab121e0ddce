"""One backend per level and thread count, opened once."""

from functools import cache

import pytest

from llama_rt import _native

LEVELS = _native.cpu_info().tiers


@cache
def open_tier(level: str, threads: int = 2, reproducible: bool = True):
    """The CPU backend at `level`; a backend is cheap to keep and safe to share."""
    return _native.open_backend("cpu", isa=level, threads=threads, reproducible=reproducible)


@pytest.fixture(params=LEVELS)
def backend(request):
    """The CPU backend of every level this machine can run."""
    return open_tier(request.param)


@pytest.fixture(params=LEVELS)
def level(request):
    return request.param


@pytest.fixture(scope="session")
def opened():
    """`opened(level, threads, reproducible)` gives a cached backend."""
    return open_tier
