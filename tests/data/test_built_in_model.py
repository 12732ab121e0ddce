"""The model inside the package: its file in an independent reader, its arithmetic, its loss."""

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import llama_rt
from llama_rt import Llama

ROOT = Path(__file__).parents[2]
MODEL = Path(llama_rt.__file__).parent / "data" / "tales.gguf"
HELD_OUT = ROOT.parent / "shared" / "corpus" / "tales_heldout.txt.xz"
sys.path.insert(0, str(ROOT / "tools"))


@pytest.fixture(scope="module")
def reader():
    return pytest.importorskip("gguf").GGUFReader(MODEL)


@pytest.fixture(scope="module")
def llm():
    with Llama.load(progress=False) as model:
        yield model


def value(reader, key):
    return reader.fields[key].contents()


def test_file_is_small_enough_to_ship_and_has_its_card():
    assert MODEL.stat().st_size <= 8_000_000
    card = (MODEL.parent / "MODEL_CARD.md").read_text()
    assert "bits per character" in card
    assert "public domain" in card


def test_independent_reader_finds_a_llama_with_its_vocabulary(reader):
    assert value(reader, "general.architecture") == "llama"
    assert value(reader, "llama.context_length") >= 512
    tokens = value(reader, "tokenizer.ggml.tokens")
    kinds = value(reader, "tokenizer.ggml.token_type")
    assert len(tokens) == len(kinds) == value(reader, "llama.vocab_size")
    assert tokens[:4] == ["<unk>", "<s>", "</s>", "<0x00>"]
    assert kinds[:4] == [2, 3, 3, 6]  # unknown, control, control, byte: llama.cpp's token types
    assert (
        value(reader, "tokenizer.ggml.bos_token_id"),
        value(reader, "tokenizer.ggml.eos_token_id"),
    ) == (1, 2)
    weights = sum(int(tensor.n_elements) for tensor in reader.tensors)
    assert 4e6 <= weights <= 12e6


def halves(rows, heads):
    """Undo the interleaving of q and k rows that GGUF's llama asks for."""
    width = rows.shape[0] // heads
    return rows.reshape(heads, width // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def torch_model(reader):
    """The training code's model with the weights that the `gguf` package decodes."""
    torch = pytest.importorskip("torch")
    from gguf.quants import dequantize
    from tales_model import TalesConfig, TalesModel

    heads = value(reader, "llama.attention.head_count")
    kv_heads = value(reader, "llama.attention.head_count_kv")
    tensors = {t.name: dequantize(t.data, t.tensor_type) for t in reader.tensors}
    model = TalesModel(
        TalesConfig(
            value(reader, "llama.embedding_length"),
            value(reader, "llama.block_count"),
            heads,
            kv_heads,
            value(reader, "llama.feed_forward_length"),
            vocab_size=value(reader, "llama.vocab_size"),
            rms_norm_eps=value(reader, "llama.attention.layer_norm_rms_epsilon"),
            rope_theta=value(reader, "llama.rope.freq_base"),
            tie_word_embeddings="output.weight" not in tensors,
        )
    )
    names = {
        "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
        "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
        "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }  # fmt: skip
    state = {}
    for name, array in tensors.items():
        layer = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
        if layer:
            if layer[2] in {"attn_q", "attn_k"}:
                array = halves(array, heads if layer[2] == "attn_q" else kv_heads)
            target = f"model.layers.{layer[1]}.{names[layer[2]]}.weight"
        else:
            target = names[name.removesuffix(".weight")] + ".weight"
        state[target] = torch.from_numpy(np.array(array, dtype=np.float32))
    model.load_state_dict(state)
    return model.eval()


def test_logits_agree_with_torch_on_the_weights_of_the_independent_reader(reader, llm):
    torch = pytest.importorskip("torch")
    ids = llm.tokenizer.encode("Once upon a time there was a poor woodcutter who lived in a wood.")
    with torch.no_grad():
        expected = torch_model(reader)(torch.tensor([ids]))[0].numpy()
    ours = llm.logits(ids)
    assert np.abs(ours - expected).max() < 0.05 * expected.std() + 0.1
    assert (ours.argmax(-1) == expected.argmax(-1)).mean() > 0.85


@pytest.mark.parametrize("seed", range(10))
def test_the_first_command_of_the_readme_writes_sixty_words(seed):
    assert 'llama-rt run "Once upon a time"' in (ROOT / "README.md").read_text(encoding="utf-8")
    command = [sys.executable, "-m", "llama_rt", "run", "Once upon a time", "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1  # one line of timings, nothing else
    words = done.stdout.split()
    assert len(words) >= 60
    assert len({tuple(words[at : at + 8]) for at in range(len(words) - 8)}) > 0.9 * len(words) - 9


@pytest.mark.skipif(not HELD_OUT.exists(), reason="the corpus is not next to the checkout")
def test_held_out_tales_cost_at_most_what_was_promised(llm):
    from tales_data import read_stories
    from tales_eval import strided_windows

    nats, characters = 0.0, 0
    for story in read_stories(HELD_OUT)[:4]:
        ids = [*llm.tokenizer.encode(story), llm.tokenizer.eos_id]
        characters += len(story)
        for begin, end, first in strided_windows(len(ids), 512, 256):
            logits = llm.logits(ids[begin:end])[first - begin - 1 :].astype(np.float64)
            peak = logits.max(-1)
            total = peak + np.log(np.exp(logits - peak[:, None]).sum(-1))
            nats += float((total - logits[np.arange(len(logits)), ids[first : end + 1]]).sum())
    assert nats / math.log(2) / characters <= 1.60
