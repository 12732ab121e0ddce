"""The whole package on the emulated device: its tests, and every reason for having none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from emulated_module import package

ROOT = Path(__file__).resolve().parents[2]


def run(*command, **settings):
    """Runs Python with the emulated package; the settings are the emulation's."""
    environment = os.environ | settings | {"PYTHONPATH": f"{package()}{os.pathsep}{ROOT / 'tests'}"}
    return subprocess.run(
        [sys.executable, *command], env=environment, cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("name", "capability"), [("probing", 90), ("ops", 90), ("ops", 80), ("models", 90)]
)
def test_device_tests_pass_on_the_emulation(name, capability):
    path = f"tests/device/test_{name}.py"
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", path)
    done = run(*command, EMULATED_CAPABILITY=str(capability))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " skipped" not in done.stdout


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"EMULATED_DRIVER": "0"}, ["cuda:0", "no NVIDIA driver"]),
        ({"EMULATED_DRIVER": "12040"}, ["supports CUDA 12.4", "needs 13.0", "update the driver"]),
        ({"EMULATED_DEVICES": "0"}, ["shows no device"]),
        ({"EMULATED_CAPABILITY": "75"}, ["compute capability 7.5", "8.0 or newer"]),
        ({"EMULATED_CAPABILITY": "120"}, ["has code for", "80-real 90a-real", "120"]),
    ],
    ids=["no driver", "old driver", "no device", "small device", "other code"],
)
def test_reasons(settings, words):
    code = (
        "from llama_rt import _native, errors\n"
        "assert _native.open_backend('auto').name == 'cpu'\n"
        "try:\n    _native.open_backend('cuda')\n"
        "except errors.BackendUnavailable as error:\n    print(error)\n"
    )
    done = run("-c", code, **settings)
    assert done.returncode == 0, done.stderr
    for word in words:
        assert word in done.stdout


AHEAD = """
import ctypes
from llama_rt import _native
from native_models import model_on
from reference.model import Config, random_weights

config = Config()
model = model_on(_native.open_backend("cuda"), config, random_weights(config, seed=2))
backlog = ctypes.CDLL(_native.__file__).emulated_backlog

def decode(**options):
    runner = _native.Runner(model, n_ctx=64)
    sampler = _native.Sampler(config.vocab_size, temperature=0.0, **options)
    [drawn] = runner.decode([runner.create()], [7], [sampler], steps=8)
    return drawn.tokens, backlog()

tokens, left = decode()
end = next(i for i in range(2, 7) if tokens[i] not in tokens[:i])
for options in ({}, {"logprobs": 0}):
    stopped, behind = decode(stop_ids=[tokens[end]], **options)
    print(left, stopped == tokens[: end + 1], behind > 0)
"""


def test_the_step_after_is_queued_before_a_token_is_read():
    """A stop leaves it behind, unless the host had to draw."""
    done = run("-c", AHEAD)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["0 True True", "0 True False"]
