"""Merging LoRA into checkpoints: the command against peft and against float64."""

import numpy as np
import pytest

from llama_rt import Llama
from llama_rt.adapters import merge, open_adapter
from llama_rt.checkpoint import open_checkpoint
from llama_rt.cli import main
from llama_rt.errors import CheckpointError
from reference.checkpoints import write_hf
from reference.model import Config, random_weights, relative_error

from .llama_adapter_files import save_v1, save_v2
from .peft_files import LINEARS, save_lora
from .test_lora import merged, write_gguf_lora

IDS = [1, 17, 300, 45, 45, 8, 501, 77, 123, 9]


def convert(*words):
    return main(["convert", *map(str, words)])


@pytest.mark.parametrize("base", ["tiny_meta_folder", "tiny_hf_folder", "tiny_gguf_file"])
@pytest.mark.parametrize("target", ["x.gguf", "folder"])
def test_the_command_against_peft(tmp_path, tiny_model, base, target, request, capsys):
    modules = [*LINEARS, "embed_tokens", "lm_head"]
    options = {"r": 4, "use_rslora": True, "target_modules": modules}
    expected = save_lora(tmp_path / "lora", *tiny_model, **options)(IDS)
    source = request.getfixturevalue(base)
    words = (source, tmp_path / target, "--format", "f32", "--adapter", tmp_path / "lora")
    assert convert(*words) == 0
    with Llama.load(tmp_path / target, threads=1) as llm:
        assert relative_error(llm.logits(IDS), expected) < 2e-3
        assert llm.tokenizer.vocab_size == 512
    capsys.readouterr()


def test_sums_of_two_are_rounded_once_each(tmp_path, tiny_model, tiny_hf_folder):
    config, weights = tiny_model
    one = write_gguf_lora(tmp_path / "one.gguf", config, alpha=8.0, seed=1)
    two = write_gguf_lora(tmp_path / "two.gguf", config, alpha=2.0, seed=2)
    files = [open_adapter(tmp_path / "one.gguf"), open_adapter(tmp_path / "two.gguf")]
    both = merge(open_checkpoint(tiny_hf_folder), files)
    expected = merged(weights, [*one, *two])
    for name, record in both.tensors.items():
        got = record.read().view("<f4").reshape(record.shape)
        if name.split(".")[-2] in ("wq", "wk"):  # back to Meta's order
            heads = config.n_heads if ".wq." in name else config.n_kv_heads
            got = got.reshape(heads, 2, -1, config.dim).swapaxes(1, 2).reshape(record.shape)
        np.testing.assert_allclose(got, expected[name], rtol=2e-7, atol=1e-7)


def test_quantized_bases_are_rounded_from_the_exact_sum(tmp_path, tiny_model, tiny_gguf_q8_0_file):
    config = tiny_model[0]
    write_gguf_lora(tmp_path / "x.gguf", config, alpha=8.0)
    both = merge(open_checkpoint(tiny_gguf_q8_0_file), [open_adapter(tmp_path / "x.gguf")])
    assert both.tensors["layers.0.attention.wq.weight"].dtype == "f32"
    assert both.tensors["layers.0.attention.wv.weight"].dtype == "q8_0"
    assert convert(tiny_gguf_q8_0_file, tmp_path / "y.gguf", "--format", "q8_0",
                   "--adapter", tmp_path / "x.gguf") == 0  # fmt: skip
    with Llama.load(tiny_gguf_q8_0_file, adapters=[tmp_path / "x.gguf"], threads=1) as attached:
        expected = attached.logits(IDS)
    with Llama.load(tmp_path / "y.gguf", threads=1) as llm:
        assert relative_error(llm.logits(IDS), expected) < 3e-2


def test_trained_biases(tmp_path, capsys):
    config = Config(attention_bias=True)
    weights = random_weights(config, seed=3)
    folder = write_hf(tmp_path / "base", config, weights)
    expected = save_lora(
        tmp_path / "lora", config, weights, bias="lora_only", target_modules=["q_proj", "k_proj"]
    )(IDS)
    assert convert(folder, tmp_path / "x", "--format", "f32", "--adapter", tmp_path / "lora") == 0
    with Llama.load(tmp_path / "x", threads=1) as llm:
        assert relative_error(llm.logits(IDS), expected) < 2e-3
    capsys.readouterr()


@pytest.mark.parametrize("kind", ["v1", "v2", "bias"])
def test_what_is_no_sum_of_weights_is_refused(tmp_path, tiny_model, tiny_meta_folder, kind, capsys):
    path = tmp_path / "x_len10.pth"
    if kind == "v1":
        save_v1(path, tiny_model[0])
    elif kind == "v2":
        save_v2(path, *tiny_model)
    else:
        path = tmp_path / "lora"
        save_lora(path, *tiny_model, lora_bias=True)
    target = tmp_path / "y.gguf"
    assert convert(tiny_meta_folder, target, "--format", "f16", "--adapter", path) == 1
    said = capsys.readouterr().err
    assert "merged" in said
    assert "--adapter" in said
    assert said.count("\n") == 1
    assert not target.exists()


def test_another_size_is_refused(tmp_path, tiny_hf_folder):
    config = Config(ffn_dim=128)
    write_gguf_lora(tmp_path / "x.gguf", config, alpha=8.0)
    with pytest.raises(CheckpointError, match=r"\[64, 128\].*\[64, 96\]"):
        merge(open_checkpoint(tiny_hf_folder), [open_adapter(tmp_path / "x.gguf")])
