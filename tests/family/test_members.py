"""Each member of the family in its published layout (small), through the public command.

Every case writes what people hold on disk, and gives the weights that it comes to, as float64 from
the published rule; the command must then continue a prompt as those weights do, and logits agree.
"""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from adapters.llama_adapter_files import adapted, save_v1, save_v2
from checkpoint.test_delta import (
    BASE,
    CONFIG,
    DIFFERENCE,
    TUNED,
    koala_expected,
    save_delta,
    save_koala,
)
from formats.test_ggml import Writer
from llama_rt import Llama
from llama_rt.cli import main
from reference.checkpoints import hf_config, hf_name, to_halves, write_hf, write_meta
from reference.model import forward, relative_error

IDS = [1, 17, 300, 45, 45, 8, 501, 77, 123, 9]
PROMPT = "Tell me about the llama."
STEPS = 6


@dataclass
class Case:
    """What a person types, and what it must compute."""

    model: object
    expected: object  # ids -> logits
    base: object = None
    adapter: object = None
    bound: float = 2e-3

    @property
    def words(self):
        words = ["-m", str(self.model)]
        words += ["--base", str(self.base)] if self.base else []
        return words + (["--adapter", str(self.adapter)] if self.adapter else [])


def of(config, weights):
    return lambda ids: forward(config, weights, ids)


def plus_row(weights, rows):
    """The tables with one more row each."""
    names = ("tok_embeddings.weight", "output.weight")
    return weights | {n: np.concatenate([weights[n], r]) for n, r in zip(names, rows, strict=True)}


def peft_folder(folder, modules, *, rank, alpha, seed=0, dtype=torch.float32):
    """`adapter_config.json` of spring 2023 and `adapter_model.bin`; returns the merged weights."""
    folder.mkdir()
    config = {
        "base_model_name_or_path": "decapoda-research/llama-7b-hf", "bias": "none",
        "enable_lora": None, "fan_in_fan_out": False, "inference_mode": True,
        "lora_alpha": alpha, "lora_dropout": 0.05, "merge_weights": False,
        "modules_to_save": None, "peft_type": "LORA", "r": rank,
        "target_modules": modules, "task_type": "CAUSAL_LM",
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    rng = torch.Generator().manual_seed(seed)
    halves = {n: v.astype(np.float64) for n, v in to_halves(CONFIG, BASE).items()}
    state = {}
    for name, weight in halves.items():
        theirs = hf_name(name).removesuffix(".weight")
        if theirs.split(".")[-1] not in modules:
            continue
        out, width = weight.shape
        a = (0.2 * torch.randn(rank, width, generator=rng)).to(dtype)
        b = (0.2 * torch.randn(out, rank, generator=rng)).to(dtype)
        stem = f"base_model.model.{theirs}"
        state[f"{stem}.lora_A.weight"], state[f"{stem}.lora_B.weight"] = a, b
        halves[name] = weight + alpha / rank * b.double().numpy() @ a.double().numpy()
    torch.save(state, folder / "adapter_model.bin")
    return of(replace(CONFIG, rope_style="halves"), halves)


def bin_folder(folder, weights, tokenizer, *, dtype, shards, changes):
    """An HF folder of 2023: `pytorch_model-*.bin`, its index, and the quirks of its config.json."""
    folder.mkdir()
    rows = weights["tok_embeddings.weight"].shape[0]
    config = hf_config(replace(CONFIG, vocab_size=rows)) | {
        "model_type": "llama", "hidden_act": "silu"
    } | changes  # fmt: skip
    config.pop("rope_parameters")
    (folder / "config.json").write_text(json.dumps(config))
    state = {hf_name(n): torch.from_numpy(np.ascontiguousarray(v)).to(dtype)
             for n, v in to_halves(CONFIG, weights).items()}  # fmt: skip
    for layer in range(CONFIG.n_layers):  # stored in half precision, to be ignored
        name = f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"
        state[name] = torch.full((CONFIG.head_dim // 2,), 0.3).half()
    index = {}
    for i, names in enumerate(np.array_split(sorted(state), shards), start=1):
        file = f"pytorch_model-{i:05d}-of-{shards:05d}.bin"
        torch.save({str(name): state[str(name)] for name in names}, folder / file)
        index |= dict.fromkeys(map(str, names), file)
    text = json.dumps({"metadata": {"total_size": 1}, "weight_map": index})
    (folder / "pytorch_model.bin.index.json").write_text(text)
    (folder / "tokenizer.model").write_bytes(tokenizer.read_bytes())
    (folder / "added_tokens.json").write_text('{"[PAD]": 512}')
    settings = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>",
                "tokenizer_class": "LlamaTokenizer"}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def pad_rows(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((1, CONFIG.dim)).astype(np.float32) for _ in range(2)]


# --- the members ---


def llama(tmp, tokenizer):
    return Case(write_meta(tmp / "13B", CONFIG, BASE, shards=2, tokenizer=tokenizer),
                of(CONFIG, BASE))  # fmt: skip


def alpaca(tmp, tokenizer):
    weights = plus_row(TUNED, pad_rows())
    folder = bin_folder(tmp / "alpaca", weights, tokenizer, dtype=torch.float32, shards=3,
                        changes={"architectures": ["LlamaForCausalLM"]})  # fmt: skip
    return Case(folder, of(replace(CONFIG, vocab_size=513), weights))


def alpaca_diff(tmp, tokenizer):
    rows = save_delta(tmp / "alpaca-7b-wdiff", tokenizer, dtype=torch.float32, pad="mean")
    weights = plus_row(TUNED, [rows["model.embed_tokens.weight"], rows["lm_head.weight"]])
    base = write_hf(tmp / "llama-7b-hf", CONFIG, BASE, dtype="float16")
    return Case(tmp / "alpaca-7b-wdiff", of(CONFIG, weights), base=base)


def vicuna_v0(tmp, tokenizer):
    rows = save_delta(tmp / "vicuna-7b-delta-v0", tokenizer, pad="zero")
    weights = plus_row(TUNED, [rows["model.embed_tokens.weight"], rows["lm_head.weight"]])
    base = write_meta(tmp / "7B", CONFIG, BASE)
    return Case(tmp / "vicuna-7b-delta-v0", of(CONFIG, weights), base=base)


def vicuna_v1_1(tmp, tokenizer):
    save_delta(tmp / "vicuna-7b-delta-v1.1", tokenizer)
    base = write_hf(tmp / "llama-7b-hf", CONFIG, BASE, dtype="float16")
    return Case(tmp / "vicuna-7b-delta-v1.1", of(CONFIG, TUNED), base=base)


def vicuna_v1_5(tmp, tokenizer):
    folder = write_hf(tmp / "vicuna-7b-v1.5", CONFIG, TUNED, dtype="float16", container="bin",
                      tokenizer=tokenizer)  # fmt: skip
    return Case(folder, of(CONFIG, TUNED))


def koala(tmp, tokenizer):
    save_koala(tmp / "koala_7b_diff_v2", DIFFERENCE)
    base = write_meta(tmp / "7B", CONFIG, BASE, tokenizer=tokenizer)
    return Case(tmp / "koala_7b_diff_v2", of(CONFIG, koala_expected()), base=base, bound=1.5e-2)


def lora(tmp, tokenizer, name, modules, **options):
    expected = peft_folder(tmp / name, modules, **options)
    base = write_meta(tmp / "7B", CONFIG, BASE, tokenizer=tokenizer)
    return Case(base, expected, adapter=tmp / name)


def alpaca_lora(tmp, tokenizer):
    modules = ["q_proj", "k_proj", "v_proj", "o_proj"]
    return lora(tmp, tokenizer, "alpaca-lora-7b", modules, rank=16, alpha=16)


def baize_v1(tmp, tokenizer):
    modules = ["q_proj", "k_proj", "v_proj", "down_proj", "gate_proj", "up_proj"]
    return lora(tmp, tokenizer, "baize-lora-7B", modules, rank=8, alpha=16, dtype=torch.float16)


def gpt4all_lora(tmp, tokenizer):
    return lora(tmp, tokenizer, "gpt4all-lora", ["q_proj", "v_proj"], rank=8, alpha=32, seed=1)


def gpt4all_file(tmp, tokenizer):
    config = replace(CONFIG, n_kv_heads=4, vocab_size=513, norm_eps=1e-6)
    path = tmp / "gpt4all-lora-quantized.bin"
    weights = Writer(config, tokenizer, "ggml", "q4_0").write(path)
    return Case(path, of(config, weights), bound=2.5e-2)


def alpaca_file(tmp, tokenizer):
    config = replace(CONFIG, n_kv_heads=4, norm_eps=1e-6)
    path = tmp / "ggml-alpaca-7b-q4.bin"
    weights = Writer(config, tokenizer, "ggmf", "q4_0").write(path)
    return Case(path, of(config, weights), bound=2.5e-2)


def chatdoctor(tmp, tokenizer):
    weights = plus_row(TUNED, pad_rows(1))
    changes = {"architectures": ["LLaMAForCausalLM"], "bos_token_id": 0, "eos_token_id": 1,
               "pad_token_id": -1, "max_sequence_length": 2048}  # fmt: skip
    folder = bin_folder(tmp / "pretrained", weights, tokenizer, dtype=torch.float32, shards=3,
                        changes=changes)  # fmt: skip
    return Case(folder, of(replace(CONFIG, vocab_size=513), weights))


def llama_adapter_v1(tmp, tokenizer):
    path = tmp / "llama_adapter_len10_layer1_release.pth"
    prefixes = save_v1(path, CONFIG)
    base = write_meta(tmp / "7B", CONFIG, BASE, tokenizer=tokenizer)
    return Case(base, lambda ids: adapted(CONFIG, BASE, ids, prefixes=prefixes), adapter=path)


def llama_adapter_v2(tmp, tokenizer):
    path = tmp / "llama_adapter_v2_0518.pth"
    state = save_v2(path, CONFIG, BASE)
    base = write_meta(tmp / "65B", CONFIG, BASE, shards=2, tokenizer=tokenizer)
    return Case(base, lambda ids: adapted(CONFIG, BASE, ids, vectors=state), adapter=path)


MEMBERS = (
    *(llama, alpaca, alpaca_diff, alpaca_lora, alpaca_file, vicuna_v0, vicuna_v1_1, vicuna_v1_5),
    *(koala, baize_v1, gpt4all_lora, gpt4all_file, chatdoctor, llama_adapter_v1, llama_adapter_v2),
)


@pytest.fixture(scope="module", params=MEMBERS, ids=lambda member: member.__name__)
def case(request, tmp_path_factory, tiny_tokenizer_file):
    return request.param(tmp_path_factory.mktemp("member"), tiny_tokenizer_file)


def test_logits(case):
    adapters = [case.adapter] if case.adapter else ()
    with Llama.load(case.model, base=case.base, adapters=adapters, threads=1, n_ctx=64) as llm:
        assert relative_error(llm.logits(IDS), case.expected(IDS)) < case.bound
        assert llm.tokenizer.bos_id == 1
        assert 2 in llm.tokenizer.stop_ids


def greedy(case, ids, vocabulary=512):
    """Continues by the float64 account; stops where the best two are too close to call."""
    found = []
    for _ in range(STEPS):
        row = case.expected([*ids, *found])[-1][:vocabulary].copy()
        best = int(row.argmax())
        second = np.delete(row, best).max()
        if row[best] - second < case.bound * np.abs(row).max() or best == 2:
            break
        found.append(best)
    return found


def test_the_command(case, tiny_tokenizer_file, capsys):
    """`llama-rt run` says what the published weights say."""
    import sentencepiece

    tokenizer = sentencepiece.SentencePieceProcessor(str(tiny_tokenizer_file))
    words = ["run", *case.words, "--json", "--temperature", "0", "--max-tokens", str(STEPS)]
    capsys.readouterr()
    assert main([*words, "--ctx", "64", PROMPT]) == 0
    said = json.loads(capsys.readouterr().out)
    ids = [1, *tokenizer.encode(PROMPT)]
    expected = greedy(case, ids)
    assert expected, "the float64 account must decide at least the first token"
    assert said["tokens"][: len(expected)] == expected
