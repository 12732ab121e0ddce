"""DoRA, and tensors that peft saves beside a LoRA, against peft's own logits."""

import warnings

import numpy as np
import pytest
import torch

from llama_rt import ConfigError, Llama
from llama_rt.adapters import open_adapter
from llama_rt.cli import main
from llama_rt.errors import CheckpointError
from reference.checkpoints import hf_model
from reference.model import relative_error

from .peft_files import LINEARS, peft, save_lora

IDS = [1, 17, 300, 45, 45, 8, 501, 77, 123, 9]
RECIPES = {
    "dora": {"use_dora": True},
    "dora and rslora": {"use_dora": True, "use_rslora": True, "target_modules": ["q_proj"]},
    "tables": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "norms": {"modules_to_save": ["norm", "input_layernorm"], "target_modules": ["q_proj"]},
    "a linear": {"modules_to_save": ["k_proj"], "target_modules": ["q_proj"]},
    "tokens": {"trainable_token_indices": [300, 8]},
    "tokens of both": {"trainable_token_indices": {"embed_tokens": [8], "lm_head": [9, 17]}},
}  # fmt: skip


# On bases of the other rotary order, what has rows of q and k.
CASES = [
    *(("tiny_hf_folder", recipe) for recipe in RECIPES),
    *((base, recipe) for base in ("tiny_meta_folder", "tiny_gguf_file") for recipe in
      ("dora", "a linear")),
]  # fmt: skip


@pytest.mark.parametrize(("base", "recipe"), CASES)
def test_logits_are_those_of_peft(tmp_path, tiny_model, base, recipe, request):
    expected = save_lora(tmp_path / "lora", *tiny_model, **RECIPES[recipe])(IDS)
    path = request.getfixturevalue(base)
    with Llama.load(path, adapters=[tmp_path / "lora"], threads=1, kv_dtype="f32") as llm:
        assert relative_error(llm.logits(IDS), expected) < (1e-4 if "hf" in base else 2e-3)
        assert llm.memory()["adapters"] == 0
        for other in (None, {"lora": 0.5}):
            with pytest.raises(ConfigError, match="merged into the weights"):
                llm.logits(IDS, adapter=other)


def save_enlarged(folder, config, weights, rows):
    """Saves a LoRA of a model whose vocabulary was enlarged; returns its logits."""
    model = hf_model(config, weights)
    settings = peft.LoraConfig(r=4, lora_alpha=8, target_modules=LINEARS, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.resize_token_embeddings(rows, mean_resizing=False)
        model = peft.get_peft_model(model, settings)
        torch.manual_seed(1)
        with torch.no_grad():
            for value in model.parameters():
                if value.requires_grad:
                    value.copy_(0.1 * torch.randn_like(value))
        model.save_pretrained(folder, save_embedding_layers=True)
    with torch.no_grad():
        return model.double().eval()(torch.tensor([[*IDS, rows - 1]])).logits[0].numpy()


def test_new_tokens(tmp_path, tiny_model, tiny_meta_folder, capsys):
    expected = save_enlarged(tmp_path / "lora", *tiny_model, 520)
    path = tiny_meta_folder
    with Llama.load(path, adapters=[tmp_path / "lora"], threads=1, kv_dtype="f32") as llm:
        assert llm.config.vocab_size == 520
        assert relative_error(llm.logits([*IDS, 519]), expected) < 2e-3
    words = ("convert", path, tmp_path / "out", "--format", "f32", "--adapter", tmp_path / "lora")
    assert main([str(word) for word in words]) == 0
    capsys.readouterr()
    with Llama.load(tmp_path / "out", threads=1, kv_dtype="f32") as llm:
        assert relative_error(llm.logits([*IDS, 519]), expected) < 2e-3


def test_files_that_do_not_fit(tmp_path, tiny_model, tiny_hf_folder):
    from safetensors.torch import load_file, save_file

    save_lora(tmp_path / "lora", *tiny_model, **RECIPES["tokens"])
    file = tmp_path / "lora" / "adapter_config.json"
    file.write_text(file.read_text().replace("300", "9999"))
    with pytest.raises(CheckpointError, match=r"embed_tokens\.weight"):
        Llama.load(tiny_hf_folder, adapters=[tmp_path / "lora"])
    file.write_text(file.read_text().replace("9999", '"x"'))
    with pytest.raises(CheckpointError, match="names no rows"):
        open_adapter(tmp_path / "lora")
    save_lora(tmp_path / "dora", *tiny_model, use_dora=True)
    weights = tmp_path / "dora" / "adapter_model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in tensors if "magnitude" in name)
    save_file(tensors | {name: tensors[name][:5].clone()}, weights)
    with pytest.raises(CheckpointError, match="lora_magnitude_vector"):
        open_adapter(tmp_path / "dora")


def test_merging_is_that_of_numpy(tmp_path, tiny_model, tiny_hf_folder):
    """Each row of W + s B A is scaled to its magnitude, in float64."""
    from llama_rt.adapters import merge
    from llama_rt.adapters.deltas import floats
    from llama_rt.checkpoint import open_checkpoint

    save_lora(tmp_path / "dora", *tiny_model, use_dora=True, target_modules=["v_proj"])
    base = open_checkpoint(tiny_hf_folder)
    file = open_adapter(tmp_path / "dora")
    merged = merge(base, [file])
    assert file.merges
    for delta in file.deltas:
        name = f"layers.{delta.layer}.attention.wv.weight"
        rows = floats(base.tensors[name]).astype(np.float64)
        rows += delta.scale * floats(delta.b).astype(np.float64) @ floats(delta.a)
        lengths = floats(delta.magnitude).astype(np.float64)
        rows *= (lengths / np.linalg.norm(rows, axis=1))[:, None]
        np.testing.assert_allclose(floats(merged.tensors[name]), rows, rtol=1e-6, atol=1e-7)
