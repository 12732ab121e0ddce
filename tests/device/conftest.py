"""The device under test: a GPU, or the emulated one when the package was built on it.

Skipped where there is neither; `tests/cuda` runs these tests on the emulation.
"""

import pytest

from llama_rt import _native


@pytest.fixture(scope="session")
def usable():
    """Skips, with the reason, where no CUDA device can be used."""
    devices, reason = _native.cuda_devices()
    reason = reason or devices[0].reason
    if reason:
        pytest.skip(f"no CUDA device: {reason}")
    return devices[0]


@pytest.fixture(scope="session")
def backend(usable):  # noqa: ARG001 - skips
    """The device's backend, whose bits know no batches."""
    return _native.open_backend("cuda", reproducible=True)


@pytest.fixture(scope="session")
def fast(usable):  # noqa: ARG001 - skips
    """The device's backend as it is used by default."""
    return _native.open_backend("cuda")


def pytest_addoption(parser):
    parser.addoption("--small", action="store_true", help="only the smallest shapes of a device")


@pytest.fixture(scope="session")
def large(usable, pytestconfig):
    """Whether the device is fast enough for more than the smallest shapes."""
    small = pytestconfig.getoption("--small", default=False)
    return not small and not usable.name.startswith("emulated")
