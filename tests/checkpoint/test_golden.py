"""The shared golden cases open, and every tensor equals what an independent reader finds."""

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from formats.stored import values
from llama_rt.checkpoint import open_checkpoint
from llama_rt.errors import CheckpointError
from reference.checkpoints import gguf_name, hf_name

HF = [
    "hf-f32",
    "hf-gqa-llama3-rope-tied-bf16-sharded",
    "hf-bias-linear-rope-f16-bin",
    "hf-odd-sizes-f32",
    "hf-mistral-window-bf16",
    "delta-f32",
]


def stored_state(folder):
    state = {}
    for file in folder.glob("*.safetensors"):
        state |= load_file(file)
    for file in folder.glob("*.bin"):
        state |= torch.load(file, weights_only=True)
    return state


@pytest.mark.parametrize("case", HF)
def test_hugging_face(shared_golden, case):
    checkpoint = open_checkpoint(shared_golden / case)
    state = stored_state(shared_golden / case)
    assert len(checkpoint.tensors) == len(state)
    for name, record in checkpoint.tensors.items():
        assert np.array_equal(values(record), state[hf_name(name)].float().numpy()), name


@pytest.mark.parametrize("case", ["meta-f16-1shard", "meta-bf16-2shards"])
def test_meta(shared_golden, case):
    checkpoint = open_checkpoint(shared_golden / case)
    shards = [torch.load(f, weights_only=True)
              for f in sorted((shared_golden / case).glob("*.pth"))]  # fmt: skip
    for name, record in checkpoint.tensors.items():
        parts = [shard[name] for shard in shards]
        axis = 1 if name.endswith(("wo.weight", "w2.weight", "tok_embeddings.weight")) else 0
        whole = parts[0] if parts[0].ndim == 1 else torch.cat(parts, axis)
        assert np.array_equal(values(record), whole.float().numpy()), name


def test_gguf(shared_golden):
    files = sorted((shared_golden / "gguf").glob("*.gguf"))
    assert files
    for file in files:
        checkpoint = open_checkpoint(file)
        tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
        assert len(tensors) == len(checkpoint.tensors)
        for name, record in checkpoint.tensors.items():
            tensor = tensors[gguf_name(name)]
            assert record.dtype == tensor.tensor_type.name.lower()
            expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            assert np.array_equal(values(record), expected.reshape(record.shape)), name


def test_adapter_is_no_model(shared_golden):
    with pytest.raises(CheckpointError, match="adapter, not a model"):
        open_checkpoint(shared_golden / "peft-lora")


def test_folder_of_many_files(shared_golden):
    with pytest.raises(CheckpointError, match=r"16 GGUF files; give one of them: BF16\.gguf"):
        open_checkpoint(shared_golden / "gguf")
