"""What is said where a device cannot be used."""

import pytest

from llama_rt import Llama, _native, hardware, plan
from llama_rt.errors import BackendUnavailable


def test_the_reason_is_the_same_everywhere():
    devices, reason = _native.cuda_devices()
    usable = any(not d.reason for d in devices)
    assert bool(reason) == (not devices)
    found = hardware.inspect()
    assert (found.cuda is None) == usable
    assert len(found.gpus) == len(devices)
    if usable:
        assert _native.open_backend("cuda").name == "cuda:0"
        assert _native.open_backend("auto").name == "cuda:0"
        return
    with pytest.raises(BackendUnavailable) as caught:
        _native.open_backend("cuda")
    assert found.cuda in str(caught.value)
    for call in (Llama.load, plan):
        with pytest.raises(BackendUnavailable, match="cuda:0 cannot be used"):
            call(None, device="cuda")
    assert _native.open_backend("auto").name == "cpu"


def test_a_device_out_of_range_is_refused():
    devices, _ = _native.cuda_devices()
    with pytest.raises(BackendUnavailable, match=f"cuda:{len(devices)} cannot be used"):
        _native.open_backend(f"cuda:{len(devices)}")
    with pytest.raises(BackendUnavailable):
        _native.cuda_read_bandwidth(len(devices))


def test_bandwidth_is_measured(usable, large):
    size, seconds = (1 << 30, 0.05) if large else (1 << 16, 0.0)
    measured = _native.cuda_read_bandwidth(0, size, seconds)
    assert measured > 0
    if usable.bandwidth > 0:
        assert measured < 1.05 * usable.bandwidth
