"""`Llama.load`: formats, options, and one clear sentence for everything that cannot work."""

import json
import shutil

import numpy as np
import pytest

from llama_rt import (
    BackendUnavailable,
    CapacityError,
    CheckpointError,
    CheckpointNotFoundError,
    ConfigError,
    Llama,
    TemplateError,
    TokenizerError,
)
from llama_rt.api import load as loading
from llama_rt.convert import convert
from reference.checkpoints import write_hf
from reference.model import forward, relative_error

IDS = [1, *range(5, 150, 3)]
MESSAGES = [{"role": "user", "content": "Hello"}]


def test_every_format_is_the_same_model(
    tiny_hf_folder, tiny_meta_folder, tiny_gguf_file, tiny_model
):
    expected = forward(*tiny_model, IDS)
    texts = set()
    for path in (tiny_hf_folder, tiny_meta_folder, tiny_gguf_file, str(tiny_gguf_file)):
        with Llama.load(path, threads=1, n_ctx=200) as llm:
            assert relative_error(llm.logits(IDS), expected) < 2e-3
            assert llm.n_ctx == 200
            texts.add(llm.tokenizer.decode(llm.tokenizer.encode("The llama")))
    assert texts == {"The llama"}


@pytest.mark.parametrize("kv_dtype", ["f16", "bf16", "f32", "q8_0"])
def test_cache_types(tiny_hf_folder, tiny_model, kv_dtype):
    with Llama.load(tiny_hf_folder, threads=1, kv_dtype=kv_dtype) as llm:
        error = relative_error(llm.logits(IDS), forward(*tiny_model, IDS))
        assert error < {"bf16": 1.5e-2, "q8_0": 2.5e-2}.get(kv_dtype, 2e-3)
        used = llm.memory()["kv_cache_max"]
        assert used > 0


@pytest.mark.parametrize(("quantize", "bound"), [("q8_0", 5e-2), ("f16", 2e-3), ("bf16", 2e-2)])
def test_quantizing_at_load(tiny_hf_folder, tiny_model, quantize, bound):
    with (
        Llama.load(tiny_hf_folder, threads=1) as plain,
        Llama.load(tiny_hf_folder, threads=1, quantize=quantize) as llm,
    ):
        assert relative_error(llm.logits(IDS), forward(*tiny_model, IDS)) < bound
        assert llm.memory()["weights"] < plain.memory()["weights"]


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("threads", [1, 2])
def test_what_has_no_code_is_not_quantized(tiny_model, tmp_path, value, threads):
    config, weights = tiny_model
    name = "layers.1.feed_forward.w2.weight"
    broken = {**weights, name: weights[name].copy()}
    broken[name][-1, -1] = value
    folder = write_hf(tmp_path / "broken", config, broken)
    with pytest.raises(CheckpointError, match=rf"safetensors.*{name}.*NaN or infinite"):
        Llama.load(folder, quantize="q4_0", threads=threads)
    with pytest.raises(CheckpointError, match=rf"safetensors.*{name}.*NaN or infinite"):
        convert(folder, tmp_path / "made.gguf", "q4_0")
    assert not (tmp_path / "made.gguf").exists()


def test_quantizing_gives_what_a_quantized_file_gives(tiny_gguf_file, tiny_gguf_q8_0_file):
    """The same rounding as llama.cpp's: the bits agree."""
    with (
        Llama.load(tiny_gguf_q8_0_file, threads=1) as stored,
        Llama.load(tiny_gguf_file, threads=1, quantize="q8_0") as made,
    ):
        np.testing.assert_array_equal(made.logits(IDS), stored.logits(IDS))


@pytest.mark.parametrize("format", ["q5_1", "q4_k_m"])
def test_quantizing_gives_what_converting_gives(tiny_hf_folder, tmp_path, format):
    made = convert(tiny_hf_folder, tmp_path / "made.gguf", format).path
    with (
        Llama.load(made, threads=1) as stored,
        Llama.load(tiny_hf_folder, threads=2, quantize=format) as quantized,
    ):
        # The rows of q and k differ in order, and sums with them.
        assert relative_error(quantized.logits(IDS), stored.logits(IDS)) < 2e-2


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"quantize": "q9_9"}, ConfigError, r"quantize.*'q9_9'.*q8_0"),
        ({"device": "tpu"}, ConfigError, "tpu"),
        ({"kv_dtype": "f8"}, ConfigError, r"kv_dtype.*f16, bf16, f32, q8_0.*'f8'"),
        ({"repack": "sometimes"}, ConfigError, "repack.*'sometimes'"),
        ({"n_ctx": 257}, CapacityError, "257.*256"),
        ({"n_ctx": 0}, ConfigError, "n_ctx"),
        ({"n_ctx": "many"}, TypeError, "n_ctx"),
        ({"base": "somewhere"}, CheckpointNotFoundError, "somewhere"),
        ({"adapters": ["nowhere"]}, CheckpointNotFoundError, "nowhere"),
        ({"chat_template": "no such template"}, TemplateError, "alpaca"),
        ({"tokenizer": "nowhere.model"}, TokenizerError, "nowhere.model"),
        ({"tokenizer": 1}, TypeError, "tokenizer"),
        ({"isa": "avx9000"}, ConfigError, "avx9000"),
        ({"isa": ""}, ConfigError, "isa"),
        ({"isa": 1}, TypeError, "isa: expected a str or None, got int"),
        ({"device": None}, TypeError, "device: expected a str, got NoneType"),
        ({"reproducible": "yes"}, TypeError, "reproducible: expected a bool, got str"),
        ({"threads": 0}, ConfigError, "threads"),
        ({"threads": 2**31}, ConfigError, "threads.*4096"),
        ({"threads": "2"}, TypeError, "threads: expected an int or None, got str"),
        ({"threads": True}, TypeError, "threads"),
        ({"adapters": ["~no-such-user/a.gguf"]}, CheckpointNotFoundError, "~no-such-user/a.gguf"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_options_that_cannot_work(tiny_hf_folder, options, error, said):
    with pytest.raises(error, match=said):
        Llama.load(tiny_hf_folder, **options)


def llama_rt_sees_cuda():
    from llama_rt.hardware import inspect

    return inspect().cuda is None


def test_a_device_that_is_named_must_work(tiny_hf_folder):
    if not llama_rt_sees_cuda():
        with pytest.raises(BackendUnavailable, match=r"\w+ \w+ \w+"):
            Llama.load(tiny_hf_folder, device="cuda")
    with Llama.load(tiny_hf_folder, device="auto") as llm:
        assert llm.device


def test_unknown_keywords_are_type_errors(tiny_hf_folder):
    with pytest.raises(TypeError, match="n_gpu_layers"):
        Llama.load(tiny_hf_folder, n_gpu_layers=1)


def test_paths_that_are_no_model(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match="nowhere"):
        Llama.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        Llama.load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        Llama.load(tmp_path)
    with pytest.raises(CheckpointNotFoundError, match="~no-such-user/model"):
        Llama.load("~no-such-user/model")
    with pytest.raises(TypeError, match="path"):
        Llama.load(5)


def test_adapters_are_named_by_their_stems(tiny_hf_folder, tmp_path):
    with pytest.raises(ConfigError, match="two are named 'a'"):
        Llama.load(tiny_hf_folder, adapters=[tmp_path / "a", tmp_path / "a"])


def test_requests_name_loaded_adapters(tiny_hf_folder):
    with Llama.load(tiny_hf_folder, adapters={}) as llm:
        with pytest.raises(ConfigError, match=r"'x'.*none"):
            llm.generate("a", adapter="x")
        with pytest.raises(ConfigError, match="'x'"):
            llm.generate("a", adapter={"x": 0.5})
        with pytest.raises(TypeError, match="adapter"):
            llm.generate("a", adapter=5)
        assert llm.generate("a", adapter=None, max_tokens=1).seed >= 0


def without_tokenizer(tiny_hf_folder, tmp_path):
    folder = tmp_path / "bare"
    shutil.copytree(tiny_hf_folder, folder)
    (folder / "tokenizer.model").unlink()
    return folder


def test_a_model_without_tokenizer_still_gives_numbers(tiny_hf_folder, tmp_path):
    with Llama.load(without_tokenizer(tiny_hf_folder, tmp_path), threads=1) as llm:
        assert llm.logits([1, 2]).shape == (2, 512)
        assert llm.embed([1, 2]).shape == (64,)
        for call in (lambda: llm.tokenizer, lambda: llm.generate("a"), lambda: llm.score("a")):
            with pytest.raises(TokenizerError, match="tokenizer="):
                call()


def test_another_tokenizer(tiny_hf_folder, tiny_tokenizer_file, tmp_path):
    folder = without_tokenizer(tiny_hf_folder, tmp_path)
    with Llama.load(folder, tokenizer=tiny_tokenizer_file, threads=1) as llm:
        assert llm.generate("The llama", max_tokens=3).usage.prompt_tokens > 1


def test_chat_refuses_to_guess(llm, tiny_hf_folder):
    with pytest.raises(TemplateError, match=r"none is guessed.*alpaca"):
        llm.chat(MESSAGES)
    assert llm.template_name is None
    with Llama.load(tiny_hf_folder, chat_template="vicuna") as chatty:
        assert chatty.template_name.startswith("vicuna")
        done = chatty.chat(MESSAGES, seed=1, max_tokens=8)
        ids = chatty.find_template().render(MESSAGES)
        assert done.usage.prompt_tokens == len(ids)
        assert done.tokens == chatty.generate(ids, seed=1, max_tokens=8).tokens


def test_a_template_that_says_nothing_is_refused(tiny_hf_folder, tmp_path):
    folder = shutil.copytree(tiny_hf_folder, tmp_path / "silent")
    (folder / "tokenizer_config.json").write_text('{"add_bos_token": false}')
    with Llama.load(folder, chat_template="{{ '' }}", threads=1) as llm:
        with pytest.raises(TemplateError, match="empty prompt"):
            llm.chat(MESSAGES)
        with pytest.raises(TemplateError, match="empty prompt"):
            llm.chat_stream(MESSAGES)


def test_a_conversation_that_does_not_fit(tiny_hf_folder):
    with Llama.load(tiny_hf_folder, chat_template="alpaca") as llm:
        long = [{"role": "user", "content": "water " * 300}]
        with pytest.raises(CapacityError, match="context of 256"):
            llm.chat(long)
        with pytest.raises(CapacityError):
            llm.chat_stream(long)


def test_templates_bring_their_stop_strings(tiny_hf_folder):
    with Llama.load(tiny_hf_folder) as llm:
        named = llm.find_template("alpaca")
        settings = llm._chat_request("chat", MESSAGES, "alpaca", {"stop": ["END"]}).detokenizer
        assert set(settings._matcher._strings) == {"END", *named.stop}


def free(monkeypatch, count):
    monkeypatch.setattr(loading, "free_memory", lambda _: count)


def test_too_little_memory_says_how_much_is_missing(tiny_hf_folder, monkeypatch):
    free(monkeypatch, 100_000)
    with pytest.raises(CapacityError, match=r"missing.*quantize='q8_0'"):
        Llama.load(tiny_hf_folder)


def test_a_context_that_does_not_fit_names_one_that_does(tiny_hf_folder, monkeypatch):
    from llama_rt.checkpoint import open_checkpoint
    from llama_rt.memory import estimate_memory

    needed = estimate_memory(
        open_checkpoint(tiny_hf_folder), quantize=None, n_ctx=256, kv_dtype="f16"
    )
    free(monkeypatch, needed.weights + needed.workspace + 200 * needed.kv_per_token)
    with pytest.raises(CapacityError, match=r"n_ctx=180 would fit"):
        Llama.load(tiny_hf_folder, n_ctx=256)
    with Llama.load(tiny_hf_folder, n_ctx=180, threads=1) as llm:
        assert llm.generate("a", max_tokens=170, seed=1).usage.total_tokens > 100


def test_no_matrix_is_read_before_the_checks(tiny_hf_folder, monkeypatch):
    from llama_rt.checkpoint import TensorRecord

    original = TensorRecord.read

    def read(self):
        assert len(self.shape) == 1, self.name  # a norm tells a delta from a model
        return original(self)

    monkeypatch.setattr(TensorRecord, "read", read)
    for options in ({"n_ctx": 10**6}, {"quantize": "x"}, {"device": "tpu"}, {"kv_dtype": "x"}):
        with pytest.raises((ConfigError, CapacityError)):
            Llama.load(tiny_hf_folder, **options)
    with pytest.raises(AssertionError):
        Llama.load(tiny_hf_folder)


def test_dynamic_scaling_is_refused_beyond_the_plain_rule(tiny_hf_folder, tmp_path):
    folder = tmp_path / "dynamic"
    shutil.copytree(tiny_hf_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config.pop("rope_parameters", None)
    config["rope_scaling"] = {"type": "dynamic", "factor": 2.0}
    (folder / "config.json").write_text(json.dumps(config))
    with Llama.load(folder, threads=1) as llm:
        assert llm.n_ctx == 256
    with pytest.raises(CapacityError, match="dynamic"):
        Llama.load(folder, n_ctx=300)


def test_a_bar_on_request(tiny_hf_folder, capfd):
    Llama.load(tiny_hf_folder, progress=False).close()
    Llama.load(tiny_hf_folder, progress=None).close()  # no terminal here
    assert capfd.readouterr().err == ""
    Llama.load(tiny_hf_folder, progress=True).close()
    assert "loading tiny-hf" in capfd.readouterr().err


def test_a_template_gets_its_variables(tiny_hf_folder):
    source = (
        "{% for t in tools or [] %}{{ t.name }} {% endfor %}{% for d in documents or [] %}"
        "{{ d.text }} {% endfor %}{{ mood }}{% for m in messages %}{{ m.content }};{% endfor %}"
        "{% if add_generation_prompt %}so{% endif %}"
    )
    begun = [*MESSAGES, {"role": "assistant", "content": "ab"}]
    asked = MESSAGES[0]["content"]
    cases = [
        (MESSAGES, {"tools": [{"name": "now"}]}, f"now {asked};so"),
        (MESSAGES, {"documents": [{"text": "it"}]}, f"it {asked};so"),
        (MESSAGES, {"chat_template_kwargs": {"mood": "good"}}, f"good{asked};so"),
        (MESSAGES, {"add_generation_prompt": False}, f"{asked};"),
        (begun, {"continue_final_message": True}, f"{asked};ab"),
    ]
    with Llama.load(tiny_hf_folder, chat_template=source, threads=1) as llm:
        for messages, options, text in cases:
            done = llm.chat(messages, max_tokens=2, temperature=0.0, **options)
            assert done.tokens == llm.generate(text, max_tokens=2, temperature=0.0).tokens
            assert done.usage.prompt_tokens == len(llm.tokenizer.encode(text))
        with llm.chat_stream(MESSAGES, tools=[], max_tokens=1) as stream:
            assert list(stream)
        for options, name in (
            ({"tools": {"name": "now"}}, "tools"),
            ({"documents": "text"}, "documents"),
            ({"chat_template_kwargs": [1]}, "chat_template_kwargs"),
            ({"continue_final_message": "content"}, "continue_final_message"),
        ):
            with pytest.raises(TypeError, match=f"^{name}: expected"):
                llm.chat(MESSAGES, **options)
        with pytest.raises(ConfigError, match="'messages' is the conversation"):
            llm.chat(MESSAGES, chat_template_kwargs={"messages": []})
        with pytest.raises(TemplateError, match="alpaca has no place for tools"):
            llm.chat(MESSAGES, template="alpaca", tools=[{"name": "now"}])
        with pytest.raises(TemplateError, match="the assistant's, which is to be continued"):
            llm.chat(MESSAGES, template="vicuna", continue_final_message=True)
