"""Damaged adapters of every format: a typed error that names the file, or an adapter."""

import numpy as np
import pytest
import torch

from formats.test_fuzz import mutated
from llama_rt import Llama
from llama_rt.errors import LlamaRtError
from reference.model import relative_error

from .llama_adapter_files import save_v1, save_v2
from .peft_files import save_lora
from .test_lora import IDS, write_gguf_lora

ROUNDS = 60


def legacy(path):
    torch.save(torch.load(path), path, _use_new_zipfile_serialization=False)


def adapters(folder, config, weights):
    """(what to open, the file that is damaged) of each format."""
    write_gguf_lora(folder / "lora.gguf", config, alpha=8.0, dtype=np.float16)
    save_v1(folder / "v1_len10.pth", config)
    save_v2(folder / "v2.pth", config, weights, prefixes=True)
    save_v2(folder / "v2_old.pth", config, weights)
    legacy(folder / "v2_old.pth")
    save_lora(folder / "peft", config, weights)
    names = ("lora.gguf", "v1_len10.pth", "v2.pth", "v2_old.pth")
    return {
        **{name: (folder / name, folder / name) for name in names},
        "peft": (folder / "peft", folder / "peft" / "adapter_model.safetensors"),
        "config": (folder / "peft", folder / "peft" / "adapter_config.json"),
    }


@pytest.mark.parametrize(
    "name", ["lora.gguf", "v1_len10.pth", "v2.pth", "v2_old.pth", "peft", "config"]
)
def test_damaged_adapters(tmp_path, tiny_model, tiny_meta_folder, name):
    config, weights = tiny_model
    path, file = adapters(tmp_path, config, weights)[name]
    sound = file.read_bytes()

    def logits():
        with Llama.load(tiny_meta_folder, adapters=[path], threads=1, n_ctx=32) as llm:
            return llm.logits(IDS)

    expected = logits()
    rng = np.random.default_rng(11)
    loaded = 0
    for _ in range(ROUNDS):
        file.unlink()
        file.write_bytes(mutated(rng, file, sound))
        try:
            logits()
            loaded += 1
        except LlamaRtError as error:
            assert str(tmp_path) in str(error)  # noqa: PT017
            assert len(str(error)) < 2000  # noqa: PT017
    assert loaded < ROUNDS
    file.unlink()
    file.write_bytes(sound)
    assert relative_error(logits(), expected) == 0
