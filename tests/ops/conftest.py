"""One backend per tier and thread count, opened once."""

from functools import cache

import pytest

from llama_rt import _native

TIERS = _native.cpu_info().tiers


@cache
def open_tier(tier: str, threads: int = 2, reproducible: bool = True):
    """The CPU backend at `tier`; a backend is cheap to keep and safe to share."""
    return _native.open_backend("cpu", isa=tier, threads=threads, reproducible=reproducible)


@pytest.fixture(params=TIERS)
def backend(request):
    """The CPU backend of every tier this machine can run."""
    return open_tier(request.param)


@pytest.fixture(params=TIERS)
def tier(request):
    return request.param


@pytest.fixture(scope="session")
def opened():
    """`opened(tier, threads, reproducible)` gives a cached backend."""
    return open_tier
