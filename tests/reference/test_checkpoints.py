"""The written checkpoints hold one model, read back by the libraries that define the formats."""

import json

import numpy as np

from reference.checkpoints import gguf_name, hf_logits
from reference.model import forward, relative_error


def test_folder_runs_in_transformers(tiny_hf_folder, tiny_model):
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(tiny_hf_folder)
    ids = list(range(1, 200, 5))
    assert relative_error(forward(*tiny_model, ids), hf_logits(model, ids)) < 1e-5


def test_shards_join_to_the_model(tiny_meta_folder, tiny_model):
    import torch

    config, weights = tiny_model
    params = json.loads((tiny_meta_folder / "params.json").read_text())
    hidden = int(2 * 4 * config.dim / 3)
    hidden = int(params.get("ffn_dim_multiplier", 1) * hidden)
    assert -(-hidden // params["multiple_of"]) * params["multiple_of"] == config.ffn_dim
    parts = [torch.load(tiny_meta_folder / f"consolidated.{i:02d}.pth") for i in range(2)]
    wo = torch.cat([p["layers.0.attention.wo.weight"] for p in parts], dim=1)
    np.testing.assert_array_equal(wo.float().numpy(), weights["layers.0.attention.wo.weight"])
    wq = torch.cat([p["layers.0.attention.wq.weight"] for p in parts])
    np.testing.assert_array_equal(wq.float().numpy(), weights["layers.0.attention.wq.weight"])


def test_gguf_reads_back(tiny_gguf_file, tiny_model):
    import gguf

    reader = gguf.GGUFReader(tiny_gguf_file)
    tensors = {t.name: t for t in reader.tensors}
    for name, value in tiny_model[1].items():
        t = tensors[gguf_name(name)]
        read = gguf.quants.dequantize(t.data, t.tensor_type).reshape(value.shape)
        np.testing.assert_array_equal(read, value)


def test_tokenizer_is_one_of_the_family(tiny_tokenizer_file):
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tiny_tokenizer_file))
    assert pieces.vocab_size() == 512
    assert (pieces.unk_id(), pieces.bos_id(), pieces.eos_id(), pieces.pad_id()) == (0, 1, 2, -1)
    assert pieces.id_to_piece(3) == "<0x00>"
    text = "The llama drank water. \N{SNOWMAN} 2026\n"
    assert pieces.decode(pieces.encode(text)) == text
