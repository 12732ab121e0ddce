"""What a path is, in one sentence with the command to run."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoint.test_delta import save_koala
from llama_rt.adapters import SIZES
from llama_rt.api import identify
from llama_rt.checkpoint import open_checkpoint
from llama_rt.cli import main
from llama_rt.errors import CheckpointError, CheckpointNotFoundError


def lora_folder(folder, width, layers=2):
    """A LoRA as it lies on disk, for a model of true width; nothing of the model is needed."""
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    state = {}
    for layer in range(layers):
        for module in ("q_proj", "v_proj"):
            stem = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            state[f"{stem}.lora_A.weight"] = torch.zeros(8, width)
            state[f"{stem}.lora_B.weight"] = torch.zeros(width, 8)
    torch.save(state, folder / "adapter_model.bin")
    return folder


@pytest.mark.parametrize(
    ("name", "width", "template"),
    [
        ("alpaca-lora-7b", 4096, "alpaca-lora"),
        ("baize-lora-13B", 5120, "baize"),
        ("baize-lora-30B", 6656, "baize"),
        ("gpt4all-lora", 4096, "gpt4all"),
        ("something", 8192, None),
    ],
)
def test_lora_for_what_size(tmp_path, name, width, template):
    found = identify(lora_folder(tmp_path / name, width, layers=1))
    assert found.kind == "adapter"
    assert SIZES[width] in found.what
    assert "rank 8" in found.what
    assert found.template == template
    assert f"--adapter {tmp_path / name}" in found.command
    assert "base" in found.missing
    assert "\n" not in found.sentence


def test_llama_adapter_v1_of_7b(tmp_path):
    state = {f"layers.{i}.attention.gate": torch.zeros(1, 32, 1, 1) for i in range(32)}
    state["adapter_query.weight"] = torch.zeros(300, 4096)
    path = tmp_path / "llama_adapter_len10_layer30_release.pth"
    torch.save(state, path)
    found = identify(path)
    assert (found.kind, found.template) == ("adapter", "llama-adapter")
    assert "7B" in found.what
    assert "32 layers" in found.what


def test_llama_adapter_v2_of_65b(tmp_path):
    state = {}
    for layer in range(80):
        state[f"layers.{layer}.attention.wq_bias"] = torch.zeros(8192)
        state[f"layers.{layer}.attention.wq_scale"] = torch.ones(8192)
    torch.save({"model": state}, tmp_path / "v2.pth")
    found = identify(tmp_path / "v2.pth")
    assert found.template == "llama-adapter-v2"
    assert "65B" in found.what


def test_the_multimodal_one_is_refused_with_the_reason(tmp_path):
    state = {"llama.layers.0.attention.gate": torch.zeros(1), "clip_proj.weight": torch.zeros(2, 2)}
    torch.save({"model": state, "config": {"w_lora": True}}, tmp_path / "BIAS-7B.pth")
    with pytest.raises(CheckpointError, match="image"):
        identify(tmp_path / "BIAS-7B.pth")


def test_koala(tmp_path):
    path = tmp_path / "koala_7b_diff"
    save_koala(path, {"tok_embeddings.weight": np.zeros((8, 5120), np.float32)})
    found = identify(path)
    assert (found.kind, found.template) == ("delta", "koala")
    assert "13B" in found.what
    assert "--base" in found.command
    with pytest.raises(CheckpointError, match="--base"):
        open_checkpoint(path)


@pytest.mark.parametrize("fixture", ["tiny_hf_folder", "tiny_meta_folder", "tiny_gguf_file"])
def test_models_are_models(fixture, request):
    path = request.getfixturevalue(fixture)
    found = identify(path)
    assert found.kind == "model"
    assert found.missing == ""
    assert found.command == f"llama-rt run -m {path}"


def test_a_delta_is_told_by_its_last_norm(tmp_path, tiny_hf_folder):
    import shutil

    folder = tmp_path / "vicuna-7b-delta-v1.1"
    shutil.copytree(tiny_hf_folder, folder)
    state = load_file(folder / "model.safetensors")
    save_file({name: value * 0.01 for name, value in state.items()}, folder / "model.safetensors")
    found = identify(folder)
    assert found.kind == "delta"
    assert "--base" in found.command
    assert found.template == "vicuna-v1.1"


def test_a_model_without_tokenizer_says_so(tmp_path, tiny_hf_folder):
    import shutil

    folder = tmp_path / "bare"
    shutil.copytree(tiny_hf_folder, folder)
    (folder / "tokenizer.model").unlink()
    assert "tokenizer is missing" in identify(folder).sentence


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("vicuna-7b-delta-v0", "vicuna-v0"),
        ("vicuna-13b-delta-v1.1", "vicuna-v1.1"),
        ("vicuna-13b-v1.5", "vicuna-v1.1"),
        ("ggml-alpaca-7b-q4.bin", "alpaca"),
        ("gpt4all-lora-quantized.bin", "gpt4all"),
        ("ChatDoctor", "chatdoctor"),
        ("baize-v2-13b", "baize"),
        ("llama-2-7b-chat.Q4_K_M.gguf", "llama-2"),
        ("Meta-Llama-3-8B-Instruct", "llama-3"),
        ("llama-7b", None),
    ],
)
def test_names_suggest_prompts_and_say_so(name, template):
    from llama_rt.api.identity import _by_name

    found, why = _by_name(f"models/{name}")
    assert found == template
    assert ("name says" in why) == (template is not None)


def test_nothing_and_something_else(tmp_path):
    with pytest.raises(CheckpointNotFoundError):
        identify(tmp_path / "nowhere")
    (tmp_path / "x.txt").write_text("hello")
    with pytest.raises(CheckpointError, match="not a model"):
        identify(tmp_path / "x.txt")


def test_the_command(tmp_path, tiny_gguf_file, capsys):
    folder = lora_folder(tmp_path / "alpaca-lora-13b", 5120, layers=1)
    assert main(["info", str(folder)]) == 0
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "13B" in said
    assert main(["info", "--json", str(folder)]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "adapter"
    assert main(["info", str(tiny_gguf_file)]) == 0
    assert f"llama-rt run -m {tiny_gguf_file}" in capsys.readouterr().out
