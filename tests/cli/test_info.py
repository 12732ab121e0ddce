"""`llama-rt info`: what a file is and whether it fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_rt import plan

MODELS = {"tiny_hf_folder": "hf", "tiny_meta_folder": "meta", "tiny_gguf_file": "gguf"}


@pytest.mark.parametrize("model", MODELS)
def test_says_what_it_is_and_whether_it_fits(call, request, model: str) -> None:
    path = request.getfixturevalue(model)
    done = call("info", path)
    assert done.code == 0, done.err
    for words in ("layers of width 64", "attention heads", "parameters", "context", "tokenizer"):
        assert words in done.out
    assert "fits: " in done.out
    assert done.out.count("tok/s") == 2
    assert "GiB" in done.out
    assert done.err == ""


@pytest.mark.parametrize("model", MODELS)
def test_json(call, request, tiny_model, model: str) -> None:
    path = request.getfixturevalue(model)
    report = call("info", path, "--json").object
    _, weights = tiny_model
    assert report["kind"] == MODELS[model]
    assert report["config"]["n_layers"] == 2
    assert report["config"]["vocab_size"] == report["tokenizer"]["vocab_size"] == 512
    assert report["parameters"] == sum(w.size for w in weights.values())
    assert report["stored_bytes"] == sum(report["formats"].values())
    assert report["tensors"] == len(weights)
    assert report["tokenizer"]["bos_id"] == 1
    expected = plan(path)
    assert report["plan"]["total_bytes"] == expected.total_bytes
    assert report["plan"]["fits"] is True


def test_the_plan_follows_quantize_and_context(call, tiny_gguf_file: Path) -> None:
    plain = call("info", tiny_gguf_file, "--json").object["plan"]
    smaller = call("info", tiny_gguf_file, "--quantize", "q8_0", "--ctx", "128", "--json").object
    assert smaller["plan"]["weights_bytes"] < plain["weights_bytes"]
    assert smaller["plan"]["n_ctx"] == 128
    # What is stored stays what it is.
    assert smaller["formats"] == call("info", tiny_gguf_file, "--json").object["formats"]


def test_a_model_without_a_tokenizer_is_still_described(call, tiny_hf_folder, tmp_path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(tiny_hf_folder / name)
    done = call("info", tmp_path)
    assert done.code == 0, done.err
    assert "none: " in done.out
    report = call("info", tmp_path, "--json").object
    assert report["tokenizer"] is None
    assert "tokenizer" in report["tokenizer_error"]
