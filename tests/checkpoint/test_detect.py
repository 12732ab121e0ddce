"""What a path is; and for what is no model, one line that says what it is and what to do."""

import json
import os
import struct

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from llama_rt.checkpoint import open_checkpoint
from llama_rt.checkpoint.detect import detect
from llama_rt.errors import CheckpointError, CheckpointNotFoundError
from reference.checkpoints import write_gguf, write_hf, write_meta
from reference.model import Config, random_weights

CONFIG = Config(dim=32, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=16, ffn_dim=32, vocab_size=40)


@pytest.fixture(scope="module")
def weights():
    return random_weights(CONFIG, seed=1)


def refused(path, *words):
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    for word in words:
        assert word in message
    return message


def test_each_format_is_detected(tmp_path, weights):
    meta = write_meta(tmp_path / "a", CONFIG, weights)
    hf = write_hf(tmp_path / "b", CONFIG, weights)
    gguf = write_gguf(tmp_path / "c.gguf", CONFIG, weights)
    assert detect(meta) == ("meta", meta)
    assert detect(hf) == ("hf", hf)
    assert detect(gguf) == ("gguf", gguf)
    assert detect(hf / "model.safetensors") == ("safetensors", hf / "model.safetensors")
    assert detect(meta / "consolidated.00.pth") == ("meta", meta)
    assert detect(meta / "params.json") == ("meta", meta)


def test_content_counts_not_the_name(tmp_path, weights):
    path = write_gguf(tmp_path / "model.bin", CONFIG, weights)
    assert open_checkpoint(path).kind == "gguf"


def test_text_paths_work(tmp_path, weights):
    write_hf(tmp_path / "b", CONFIG, weights)
    assert open_checkpoint(str(tmp_path / "b")).kind == "hf"


def test_folder_with_one_gguf(tmp_path, weights):
    path = write_gguf(tmp_path / "c.gguf", CONFIG, weights)
    assert open_checkpoint(tmp_path).path == path


def test_hugging_face_comes_before_meta(tmp_path, weights):
    write_meta(tmp_path, CONFIG, weights)
    write_hf(tmp_path, CONFIG, weights)
    assert open_checkpoint(tmp_path).kind == "hf"


@pytest.mark.parametrize("name", ["missing", "missing.gguf", "a/b/c"])
def test_nothing_there(tmp_path, name):
    with pytest.raises(CheckpointNotFoundError, match="no such file or folder"):
        open_checkpoint(tmp_path / name)


def test_empty_folder(tmp_path):
    refused(tmp_path, "an empty folder", "params.json", "config.json", ".gguf")


def test_folder_of_other_things(tmp_path):
    for i in range(9):
        (tmp_path / f"file{i}.txt").touch()
    refused(tmp_path, "no model", "file0.txt", "and 3 more", "config.json")


def test_folder_one_too_high(tmp_path, weights):
    write_hf(tmp_path / "7B", CONFIG, weights)
    refused(tmp_path, "these folders in it are: 7B")


def test_config_without_weights(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    refused(tmp_path, "config.json without weights", "model.safetensors")


def test_params_without_weights(tmp_path):
    (tmp_path / "params.json").write_text("{}")
    refused(tmp_path, "params.json without consolidated.00.pth")


def test_weights_without_params(tmp_path):
    torch.save({}, tmp_path / "consolidated.00.pth")
    refused(tmp_path, "without params.json")


def test_weights_without_config(tmp_path):
    torch.save({}, tmp_path / "pytorch_model.bin")
    refused(tmp_path, "weights without config.json")


def test_peft_adapter_folder(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    save_file({"x": np.ones(1, np.float32)}, tmp_path / "adapter_model.safetensors")
    refused(tmp_path, "PEFT adapter", "base model", "`adapters`")
    refused(tmp_path / "adapter_model.safetensors", "PEFT adapter")


def test_pickled_adapter(tmp_path):
    torch.save({"x": torch.ones(1)}, tmp_path / "adapter_model.bin")
    refused(tmp_path / "adapter_model.bin", "PEFT adapter")


def test_llama_adapter_file(tmp_path):
    state = {"adapter_query.weight": torch.ones(20, 32), "layers.0.attention.gate": torch.ones(1)}
    torch.save(state, tmp_path / "llama_adapter_len10_layer30_release.pth")
    refused(tmp_path / "llama_adapter_len10_layer30_release.pth", "LLaMA-Adapter", "`adapters`")


def test_lone_file_of_torch(tmp_path):
    torch.save({"x": torch.ones(1)}, tmp_path / "model.pth")
    refused(tmp_path / "model.pth", "give the folder")


@pytest.mark.parametrize("magic", [0x67676D6C, 0x67676D66, 0x67676A74])
def test_files_from_before_gguf(tmp_path, magic):
    path = tmp_path / "ggml-model-q4_0.bin"
    path.write_bytes(struct.pack("<I", magic) + bytes(64))
    assert detect(path) == ("ggml", path)


def test_big_endian_gguf(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + bytes(64))
    refused(path, "big-endian")


def test_gguf_of_version_1(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<III", 1, 0, 0) + bytes(64))
    refused(path, "GGUF version 1; supported: 2 and 3")


@pytest.mark.parametrize(("name", "data"), [("a.gguf", b"hello world, this is text"),
                                            ("a.txt", b"hello"), ("a", bytes(100))])  # fmt: skip
def test_something_else(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    refused(tmp_path / name)


def test_empty_file(tmp_path):
    (tmp_path / "a.gguf").touch()
    refused(tmp_path / "a.gguf", "empty")


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "is not a regular file")


def test_lfs_pointer(tmp_path, weights):
    """What git leaves when large files were not fetched."""
    folder = write_hf(tmp_path / "m", CONFIG, weights)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 13476925163\n"
    (folder / "model.safetensors").write_bytes(pointer)
    with pytest.raises(CheckpointError, match="Git LFS"):
        open_checkpoint(folder)
