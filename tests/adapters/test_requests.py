"""Adapters chosen per request: bits in mixed batches, shared prefixes, the command line."""

import json

import numpy as np
import pytest

from llama_rt import Llama, _native
from llama_rt.errors import ConfigError, LlamaRtError

from .llama_adapter_files import save_v2
from .peft_files import LINEARS, save_lora
from .test_lora import write_gguf_lora

PROMPT = list(range(1, 60))
GREEDY = {"temperature": 0.0, "max_tokens": 12}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("adapters")
    save_lora(folder / "one", *tiny_model, seed=0)
    modules = [*LINEARS, "embed_tokens", "lm_head"]
    save_lora(folder / "two", *tiny_model, seed=1, target_modules=modules)
    return [folder / "one", folder / "two"]


@pytest.fixture(scope="module")
def llm(tiny_hf_folder, folders):
    with Llama.load(tiny_hf_folder, adapters=folders, threads=1, reproducible=True) as model:
        yield model


CHOICES = (None, "one", "two", {"one": 0.5, "two": 0.5})


def alone(tiny_hf_folder, folders, choice):
    """Tokens and logits of a fresh model that never saw another request."""
    with Llama.load(tiny_hf_folder, adapters=folders, threads=1, reproducible=True) as model:
        done = model.generate(PROMPT, adapter=choice, logprobs=1, **GREEDY)
    return done.tokens, [item.logprob for item in done.logprobs]


def test_mixed_batches_have_the_bits_of_each_alone(llm, tiny_hf_folder, folders):
    """Requests of all kinds at once give what each gives in a model of its own."""
    streams = [llm.stream(PROMPT, adapter=choice, logprobs=1, **GREEDY) for choice in CHOICES * 2]
    results = [stream.completion for stream in streams]
    expected = [alone(tiny_hf_folder, folders, choice) for choice in CHOICES]
    assert len({tuple(tokens) for tokens, _ in expected}) == len(CHOICES)
    for done, (tokens, logprobs) in zip(results, expected * 2, strict=True):
        assert done.tokens == tokens
        assert [item.logprob for item in done.logprobs] == logprobs


def test_a_request_that_cannot_be_sampled_fails_alone(
    tmp_path, tiny_model, tiny_hf_folder, folders
):
    """Numbers that overflow under one adapter do not concern others."""
    config, _ = tiny_model
    write_gguf_lora(tmp_path / "wild.gguf", config, alpha=1e38, spread=1e9)
    adapters = [*folders, tmp_path / "wild.gguf"]
    with Llama.load(tiny_hf_folder, adapters=adapters, threads=1, reproducible=True) as model:
        selections = ("one", "wild", None, "wild", "two")
        streams = [model.stream(PROMPT, adapter=choice, **GREEDY) for choice in selections]
        for choice, stream in zip(selections, streams, strict=True):
            if choice == "wild":
                with pytest.raises(LlamaRtError, match="no token can be sampled"):
                    _ = stream.completion
            else:
                tokens, _ = alone(tiny_hf_folder, folders, choice)
                assert stream.completion.tokens == tokens
        assert model.generate(PROMPT, adapter="one", **GREEDY).tokens


def test_prefixes_are_shared_only_under_the_same_adapters(llm):
    first = llm.generate(PROMPT, adapter="one", **GREEDY)
    again = llm.generate(PROMPT, adapter="one", **GREEDY)
    other = llm.generate([*PROMPT, 7], adapter={"one": 0.75}, **GREEDY)
    assert again.usage.cached_tokens == len(PROMPT) - 1
    assert again.tokens == first.tokens
    assert other.usage.cached_tokens == 0


def test_mixed_batches_of_the_native_runner(tiny_model):
    """With and without an adapter in one step, on every ISA level."""
    from native_models import build_model

    rng = np.random.default_rng(5)
    config, weights = tiny_model
    a = rng.standard_normal((4, config.dim)).astype(np.float32)
    b = 0.1 * rng.standard_normal((config.dim, 4)).astype(np.float32)
    prompts = [np.array(ids, np.int32) for ids in ([1, 5, 9, 300], [7, 7], [3, 400, 11])]
    for isa in _native.cpu_info().tiers:
        model = build_model(config, weights, isa=isa, threads=1)
        adapter = _native.Adapter(model)
        adapter.add_lora(1, "wo", a, b)
        selections = [[(adapter, 1.0)], [], [(adapter, 0.5)]]

        def rows(order, model=model, selections=selections):
            runner = _native.Runner(model, n_ctx=64, kv_dtype="f32", cache_tokens=512)
            sequences = [runner.create() for _ in order]
            return runner.forward(
                sequences,
                [prompts[i] for i in order],
                outputs="last",
                adapters=[selections[i] for i in order],
            )

        together = rows([0, 1, 2])
        for i in range(3):
            assert np.array_equal(together[i], rows([i])[0]), (isa, i)


def test_numbers_take_an_adapter(llm, tiny_hf_folder):
    with Llama.load(tiny_hf_folder, threads=1, reproducible=True) as plain:
        assert np.array_equal(llm.logits(PROMPT, adapter=None), plain.logits(PROMPT))
        assert np.array_equal(llm.score(PROMPT, adapter=None), plain.score(PROMPT))
        assert np.array_equal(llm.embed(PROMPT, adapter=None), plain.embed(PROMPT))
    for call in (llm.logits, llm.score, llm.embed):
        assert not np.array_equal(call(PROMPT), call(PROMPT, adapter=None))
        assert np.array_equal(call(PROMPT), call(PROMPT, adapter={"one": 1.0, "two": 1}))


def test_memory_counts_adapters(llm, tiny_hf_folder):
    with Llama.load(tiny_hf_folder, threads=1, reproducible=True) as plain:
        assert plain.memory()["adapters"] == 0
        assert llm.memory()["adapters"] > 0
        assert llm.memory()["weights"] == plain.memory()["weights"]


@pytest.mark.parametrize("adapter", [{"one": float("nan")}, {"one": float("inf")}, {"three": 1.0}])
def test_choices_that_mean_nothing(llm, adapter):
    with pytest.raises(ConfigError, match="adapter"):
        llm.generate("a", adapter=adapter)


def test_half_a_norm_is_refused(tmp_path, tiny_model, tiny_meta_folder):
    save_v2(tmp_path / "v2.pth", *tiny_model)
    with Llama.load(tiny_meta_folder, adapters=[tmp_path / "v2.pth"], threads=1) as llm:
        with pytest.raises(ConfigError, match="0 or 1"):
            llm.logits([1, 2], adapter={"v2": 0.5})
        assert np.array_equal(
            llm.logits([1, 2], adapter={"v2": 0}), llm.logits([1, 2], adapter=None)
        )


def test_the_command_line_loads_adapters(tiny_hf_folder, folders, llm, capsys):
    from llama_rt.cli import main

    words = ["run", "-m", tiny_hf_folder, "--temperature", "0", "--max-tokens", "8", "--json"]
    words += ["--adapter", folders[0], "--adapter", folders[1], "Once upon a time"]
    assert main([str(word) for word in words]) == 0
    said = json.loads(capsys.readouterr().out)
    expected = llm.generate("Once upon a time", temperature=0.0, max_tokens=8)
    assert said["text"] == expected.text


def test_a_delta_without_its_base_is_told(tmp_path, tiny_hf_folder, caplog):
    import shutil

    from safetensors.torch import load_file, save_file

    with Llama.load(tiny_hf_folder, threads=1):
        assert not caplog.records
    shutil.copytree(tiny_hf_folder, tmp_path / "delta")
    path = tmp_path / "delta" / "model.safetensors"
    save_file({name: 0.01 * value for name, value in load_file(path).items()}, path)
    with Llama.load(tmp_path / "delta", threads=1):
        assert "--base" in caplog.text
