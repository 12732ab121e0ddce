"""A model that norms each head of q and k before rotation (Qwen3), against transformers."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from llama_rt import ConfigError, Llama
from llama_rt.convert import convert
from reference.model import relative_error

IDS = [1, 17, 300, 45, 45, 8, 501, 77, 123, 9]


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tiny_hf_folder):
    """The folder of a small model as transformers writes it, and the model."""
    folder = tmp_path_factory.mktemp("qwen3")
    torch.manual_seed(5)
    vocab = json.loads((tiny_hf_folder / "config.json").read_text())["vocab_size"]
    config = Qwen3Config(
        vocab_size=vocab, hidden_size=64, intermediate_size=96, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32, max_position_embeddings=128,
        attention_bias=True, tie_word_embeddings=False,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "_norm" in name:  # all ones as they come, which would prove little
                value.copy_(0.5 + torch.rand_like(value))
            elif "bias" in name:
                value.copy_(0.1 * torch.randn_like(value))
            else:
                value.mul_(4)
    model.save_pretrained(folder)
    shutil.copy(tiny_hf_folder / "tokenizer.model", folder)
    return folder, model


@pytest.mark.parametrize("threads", [1, 2])
def test_logits_are_those_of_transformers(saved, threads):
    folder, model = saved
    with torch.no_grad():
        expected = model(torch.tensor([IDS])).logits[0].numpy()
    with Llama.load(folder, threads=threads, kv_dtype="f32") as llm:
        assert relative_error(llm.logits(IDS), expected) < 1e-5


def test_greedy_text_is_that_of_transformers(saved):
    folder, model = saved
    ids = torch.tensor([IDS])
    for _ in range(12):
        with torch.no_grad():
            ids = torch.cat([ids, model(ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
    with Llama.load(folder, kv_dtype="f32") as llm:
        tokens = llm.generate(IDS, max_tokens=12, temperature=0.0).tokens
    assert len(tokens) > 2
    assert np.array_equal(tokens, ids[0, len(IDS) :][: len(tokens)])


def test_the_norms_must_be_there(saved, tmp_path):
    folder, _ = saved
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config["architectures"], config["model_type"] = ["LlamaForCausalLM"], "llama"
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"[kq]_norm\.weight.* configuration"):
        Llama.load(copy)


def test_windows_are_refused(saved, tmp_path):
    folder, _ = saved
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"use_sliding_window": True}))
    with pytest.raises(ConfigError, match="use_sliding_window"):
        Llama.load(copy)


@pytest.mark.parametrize("target", ["out.gguf", "folder"])
def test_conversion_says_that_it_cannot(saved, tmp_path, target):
    with pytest.raises(ConfigError, match="norms q and k"):
        convert(saved[0], tmp_path / target, "f16")
