"""Answers end where each project's did, through `llama-rt chat`: a model that says fixed words."""

import io
import itertools
import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from llama_rt.chat import choose_template
from llama_rt.chat.templates.named import FORMATS
from llama_rt.cli import main
from llama_rt.tokenizer import load_tokenizer
from llama_rt.tokenizer.sentencepiece.spm_model import parse_model, serialize_model
from reference.checkpoints import write_hf
from reference.model import Config, random_weights

CONFIG = Config(dim=256, n_layers=1, n_heads=4, n_kv_heads=4, head_dim=64, max_context=2048)
BYTE = 3  # id of byte 0
EOS = 2
NAMES = sorted(set(FORMATS) - {"llama-3"})  # whose special tokens this vocabulary has not


@pytest.fixture(scope="module")
def parrot(tmp_path_factory, tiny_tokenizer_file):
    """A model whose layers add nothing: what follows a token depends on that token alone."""
    folder = tmp_path_factory.mktemp("parrot")
    weights = random_weights(CONFIG, seed=2)
    for name in weights:
        if name.endswith(("wo.weight", "w2.weight")):
            weights[name] *= 0
        if name.endswith("norm.weight"):
            weights[name] = np.ones_like(weights[name])
    return write_hf(folder / "base", CONFIG, weights, tokenizer=tiny_tokenizer_file)


def spelled(model, text):
    """Two ids that spell `text`, as pieces of the vocabulary or put into it at the end."""
    ids = []
    for slot, part in ((510, text[: len(text) // 2]), (511, text[len(text) // 2 :])):
        part = part.replace(" ", "\u2581")
        if part not in model.texts:
            model.texts[slot] = part
        ids.append(model.texts.index(part))
    return ids


def teach(base, folder, name, stop):
    """Saves a model that answers a first `Hello` under this template with `Hi` and `stop`."""
    shutil.copytree(base, folder)
    model = parse_model((folder / "tokenizer.model").read_bytes())
    end = [EOS] if stop is None else [*spelled(model, stop), BYTE]
    (folder / "tokenizer.model").write_bytes(serialize_model(model))
    tokenizer = load_tokenizer(folder, {"vocab_size": 512}, "hf")
    prompt = choose_template(name, tokenizer).render([{"role": "user", "content": "Hello"}])
    ids = [prompt[-1], BYTE + ord("H"), BYTE + ord("i"), *end]
    state = load_file(folder / "model.safetensors")
    embedding = state["model.embed_tokens.weight"]
    output = torch.zeros_like(embedding)
    for current, following in itertools.pairwise(ids):
        output[following] += 20 * embedding[current] / embedding[current].norm()
    state["lm_head.weight"] = output
    save_file(state, folder / "model.safetensors")


def answer(folder, name, monkeypatch, capsys):
    """What `llama-rt chat` says to Hello."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\n"))
    capsys.readouterr()
    words = ["chat", "-m", str(folder), "--template", name, "--json", "--max-tokens", "60"]
    assert main([*words, "--temperature", "0", "--repetition-penalty", "1"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", NAMES)
def test_the_end_of_text_ends_every_format(tmp_path, parrot, name, monkeypatch, capsys):
    teach(parrot, tmp_path / "model", name, None)
    said = answer(tmp_path / "model", name, monkeypatch, capsys)
    assert said["messages"][-1] == {"role": "assistant", "content": "Hi"}
    assert said["completions"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("name", "stop"), [(name, stop) for name in NAMES for stop in FORMATS[name].stop]
)
def test_stop_strings_end_it_and_are_not_part_of_it(
    tmp_path, parrot, name, stop, monkeypatch, capsys
):
    teach(parrot, tmp_path / "model", name, stop)
    said = answer(tmp_path / "model", name, monkeypatch, capsys)
    assert said["messages"][-1]["content"].rstrip() == "Hi"
    assert said["completions"][0]["finish_reason"] == "stop"


def test_the_demo_decides_how_answers_are_sampled(tmp_path, parrot, monkeypatch):
    """Options win, then the template's project, then the library."""
    from llama_rt import Llama

    teach(parrot, tmp_path / "model", "chatdoctor", None)
    seen = []
    plain = Llama.chat_stream

    def watched(self, *args, **options):
        seen.append(options["params"])
        return plain(self, *args, **options)

    monkeypatch.setattr(Llama, "chat_stream", watched)
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\n"))
    words = ["chat", "-m", str(tmp_path / "model"), "--template", "chatdoctor", "--json"]
    assert main([*words, "--max-tokens", "9", "--top-k", "7"]) == 0
    (params,) = seen
    assert (params.temperature, params.top_p, params.repetition_penalty) == (0.5, 1.0, 1.1)
    assert params.top_k == 7


def test_a_llama_adapter_is_detected_and_the_rest_refused(tmp_path, parrot, monkeypatch, capsys):
    """Its content tells which prompts it was trained on; a LoRA's name would only suggest."""
    from adapters.llama_adapter_files import save_v1

    teach(parrot, tmp_path / "model", "llama-adapter", None)
    config = replace(CONFIG, n_layers=1)
    save_v1(tmp_path / "a_len10.pth", config, adapted_layers=1)
    state = torch.load(tmp_path / "a_len10.pth")
    state["adapter_query.weight"] *= 0
    torch.save(state, tmp_path / "a_len10.pth")
    words = ["chat", "-m", str(tmp_path / "model"), "--json", "--max-tokens", "9"]
    capsys.readouterr()
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\n"))
    path = f"{tmp_path / 'a_len10.pth'}#gate=tanh"
    assert main([*words, "--adapter", path, "--temperature", "0"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["messages"][-1]["content"] == "Hi"
    assert "template: llama-adapter" in err
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\n"))
    assert main(words) == 1
    assert "alpaca" in capsys.readouterr().err
