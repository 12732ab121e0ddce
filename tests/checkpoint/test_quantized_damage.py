"""Settings and parts of quantized folders that are wrong: typed errors, and nothing else."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoint.published import write_folder
from checkpoint.test_quantized_folders import LAYOUTS
from llama_rt.checkpoint import open_checkpoint
from llama_rt.errors import CheckpointError, ConfigError

VALUES = [None, True, -1, 3, 10**400, 0.5, "x", [], {"a": 1}]
SETTINGS = ("gptq zeros", "awq gemv", "w4a16 zeros", "fp8 tiles", "nf4 nested", "hqq 4 bits")
PARTS = (*SETTINGS, "w8a8 zeros", "gptq act-order")


def opens(folder) -> bool:
    """Reads a layer; anything but a typed error, a warning included, fails the test."""
    try:
        open_checkpoint(folder).tensors["layers.0.attention.wk.weight"].read()
    except (CheckpointError, ConfigError):
        return False
    return True


def changed(value, path=()):
    """Every copy of nested settings with one value replaced."""
    if isinstance(value, dict):
        for key in value:
            for other in changed(value[key], (*path, key)):
                yield value | {key: other}
    else:
        yield from VALUES
    if path:
        yield []


@pytest.mark.parametrize("layout", SETTINGS)
def test_wrong_settings(tmp_path, layout):
    layer, settings, _, _ = LAYOUTS[layout]
    write_folder(tmp_path, layer, settings)
    path = tmp_path / "config.json"
    sound = json.loads(path.read_text())
    for settings_ in changed(settings):
        path.write_text(json.dumps(sound | {"quantization_config": settings_}))
        opens(tmp_path)
    path.write_text(json.dumps(sound))
    assert opens(tmp_path)


def damages(part, rng):
    """A part that is missing, of another shape, of another type, or full of noise."""
    yield None
    yield part.reshape(-1)
    yield part.reshape(1, -1)
    yield part[:0] if part.dim() else part.reshape(1, 1, 1)
    yield torch.zeros(3, 5, 7)
    yield part.to(torch.int64 if part.dtype != torch.int64 else torch.float32)
    noise = rng.integers(0, 256, part.numel() * part.element_size(), np.uint8)
    yield torch.from_numpy(noise).view(part.dtype).reshape(part.shape)


@pytest.mark.parametrize("layout", PARTS)
def test_wrong_parts(tmp_path, layout):
    layer, settings, _, _ = LAYOUTS[layout]
    write_folder(tmp_path, layer, settings)
    path, rng = tmp_path / "model.safetensors", np.random.default_rng(5)
    sound = load_file(path)
    names = [name for name in sound if name.startswith("model.layers.0.self_attn.k_proj.")]
    for name in names:
        for part in damages(sound[name], rng):
            state = {key: value for key, value in sound.items() if key != name}
            save_file(state if part is None else state | {name: part.contiguous()}, path)
            opens(tmp_path)
