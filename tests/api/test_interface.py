"""A walk through the Python part of the outer surface: every name, keyword and default on it."""

import asyncio
import inspect
import subprocess
import sys

import numpy as np
import pytest

import llama_rt
from llama_rt import Chunk, Completion, ConfigError, Llama, LlamaRtError, SamplingParams, plan

LOAD = {
    "path": None,
    "device": "auto",
    "quantize": None,
    "n_ctx": None,
    "threads": None,
    "isa": None,
    "repack": "auto",
    "kv_dtype": "f16",
    "base": None,
    "adapters": (),
    "tokenizer": None,
    "chat_template": None,
    "reproducible": False,
    "progress": None,
    "kv_cache_bytes": None,
    "max_waiting": None,
}
GENERATE = {"max_tokens": None, "params": None, "stop": (), "seed": None, "logprobs": 0}
SAMPLING = {
    "temperature": 0.7,
    "top_k": 40,
    "top_p": 0.9,
    "min_p": 0.05,
    "typical_p": 0.95,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
    "logit_bias": {5: -1.0},
    "seed": 1,
}
TEXT = "The llama drank"
MESSAGES = [{"role": "user", "content": "Hello"}]


def defaults(function):
    return {name: p.default for name, p in inspect.signature(function).parameters.items()}


def test_load_has_its_keywords():
    assert defaults(Llama.load) == LOAD
    kinds = [p.kind for p in inspect.signature(Llama.load).parameters.values()]
    assert kinds[1:] == [inspect.Parameter.KEYWORD_ONLY] * (len(LOAD) - 1)


def test_generate_has_its_keywords():
    found = defaults(Llama.generate)
    assert {name: found[name] for name in GENERATE} == GENERATE


def test_plan_has_its_keywords():
    found = defaults(plan)
    assert list(found)[:4] == ["path", "device", "quantize", "n_ctx"]
    assert (found["device"], found["quantize"], found["n_ctx"]) == ("auto", None, None)


def test_every_default_may_be_given(tiny_hf_folder):
    options = {name: value for name, value in LOAD.items() if name != "path"}
    with Llama.load(tiny_hf_folder, **options) as llm:
        completion = llm.generate(TEXT, max_tokens=3, params=None, stop=(), seed=None, logprobs=0)
    assert isinstance(completion, Completion)


CALLS = {
    "generate": lambda llm, **k: llm.generate(TEXT, **k),
    "stream": lambda llm, **k: llm.stream(TEXT, **k).completion,
    "agenerate": lambda llm, **k: asyncio.run(llm.agenerate(TEXT, **k)),
    "chat": lambda llm, **k: llm.chat(MESSAGES, template="alpaca", **k),
    "chat_stream": lambda llm, **k: llm.chat_stream(MESSAGES, template="alpaca", **k).completion,
    "achat": lambda llm, **k: asyncio.run(llm.achat(MESSAGES, template="alpaca", **k)),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_call_takes_every_keyword(llm, name):
    call = CALLS[name]
    queue = {"timeout": 60, "priority": 1, "cache_salt": "x"}
    numbers = {"max_tokens": 8, "logprobs": 2, "adapter": None}
    all_of_them = {**GENERATE, **numbers, **queue, **SAMPLING}
    direct = call(llm, **all_of_them)
    assert direct.seed == 1
    assert len(direct.logprobs) == len(direct.tokens)
    params = SamplingParams(**SAMPLING)
    assert call(llm, params=params, max_tokens=8).tokens == direct.tokens
    with pytest.raises(TypeError, match=rf"{name}\(\).*max_token'"):
        call(llm, max_token=8)


async def gathered(stream):
    return [chunk async for chunk in stream]


def test_asynchronous_streams_give_the_same(llm):
    options = {"max_tokens": 8, "seed": 4}
    chunks = asyncio.run(gathered(llm.astream(TEXT, **options)))
    assert "".join(c.text for c in chunks) == llm.generate(TEXT, **options).text
    chunks = asyncio.run(gathered(llm.achat_stream(MESSAGES, template="alpaca", **options)))
    expected = llm.chat(MESSAGES, template="alpaca", **options).text
    assert "".join(c.text for c in chunks) == expected


def test_a_completion_has_its_fields(llm):
    done = llm.generate(TEXT, max_tokens=5, temperature=0.0, logprobs=3)
    assert isinstance(done.text, str)
    assert all(isinstance(token, int) for token in done.tokens)
    assert done.finish_reason in ("stop", "length", "cancelled")
    assert [len(entry.top) for entry in done.logprobs] == [3] * len(done.tokens)
    ids = llm.tokenizer.encode(TEXT)
    assert done.usage.prompt_tokens == len(ids)
    assert done.usage.completion_tokens == len(done.tokens)
    assert done.usage.total_tokens == len(ids) + len(done.tokens)
    assert done.timings.prompt_s > 0
    assert done.timings.decode_s > 0
    assert done.timings.prompt_tokens_per_second >= 0
    assert done.timings.generation_tokens_per_second > 0
    assert str(done) == done.text


def test_forms_of_a_prompt(llm):
    ids = llm.tokenizer.encode(TEXT)
    options = {"max_tokens": 6, "seed": 2}
    one = llm.generate(TEXT, **options)
    for prompt in (ids, tuple(ids), np.array(ids), list(np.array(ids, np.int32)), iter(ids)):
        assert llm.generate(prompt, **options).tokens == one.tokens
    for many in ([TEXT], (TEXT,), [ids], np.array([ids]), [np.array(ids)]):
        result = llm.generate(many, **options)
        assert isinstance(result, list)
        assert [c.tokens for c in result] == [one.tokens]
    mixed = llm.generate([TEXT, ids], **options)
    assert [c.tokens for c in mixed] == [one.tokens] * 2
    assert llm.generate("", max_tokens=2).usage.prompt_tokens == 1


@pytest.mark.parametrize(
    "prompt",
    [
        [],
        5,
        None,
        np.array(5),
        [np.True_],
        b"text",
        {"a": 1},
        [1, "a"],
        [1.5],
        [True],
        [[]],
        [["a"]],
    ],
    ids=repr,
)
def test_what_is_no_prompt(llm, prompt):
    with pytest.raises((TypeError, ValueError), match=r"prompt|ids"):
        llm.generate(prompt, max_tokens=1)


def test_tokens_run_to_the_end_of_the_context(llm):
    done = llm.generate(TEXT, temperature=1.5, seed=0)
    assert done.finish_reason in ("length", "stop")
    if done.finish_reason == "length":
        assert done.usage.total_tokens == llm.n_ctx
    assert llm.generate(TEXT, max_tokens=0).finish_reason == "length"
    assert llm.generate(TEXT, max_tokens=10**9, seed=0, temperature=1.5).tokens == done.tokens
    chunks = list(llm.stream(TEXT, max_tokens=0))
    assert [(c.text, c.tokens, c.finish_reason) for c in chunks] == [("", [], "length")]


def test_seeds(llm):
    sampled = llm.generate(TEXT, max_tokens=20, temperature=1.0)
    again = llm.generate(TEXT, max_tokens=20, temperature=1.0, seed=sampled.seed)
    assert again.tokens == sampled.tokens
    zero = [llm.generate(TEXT, max_tokens=20, temperature=1.0, seed=0) for _ in range(2)]
    assert zero[0].tokens == zero[1].tokens
    assert zero[0].seed == 0
    others = {tuple(llm.generate(TEXT, max_tokens=20, seed=s).tokens) for s in range(5)}
    assert len(others) > 1
    several = llm.generate([TEXT] * 4, max_tokens=20, temperature=1.0)
    assert len({c.seed for c in several}) == 4
    assert len({tuple(c.tokens) for c in several}) > 1


def test_ids_are_suppressed_and_forced(llm):
    first = llm.generate(TEXT, max_tokens=1, temperature=0.0).tokens[0]
    suppressed = llm.generate(TEXT, max_tokens=1, temperature=0.0, logit_bias={first: -np.inf})
    assert suppressed.tokens[0] != first
    forced = llm.generate(TEXT, max_tokens=4, logit_bias={40: 1e4}, seed=1)
    assert forced.tokens == [40] * 4
    with pytest.raises(ConfigError, match="suppresses every id"):
        llm.generate(TEXT, logit_bias=dict.fromkeys(range(512), -np.inf))
    with pytest.raises(ConfigError, match=r"logit_bias.*512"):
        llm.generate(TEXT, logit_bias={512: 1.0})


def test_tokenizer_config_and_memory(llm, tiny_model):
    ids = llm.tokenizer.encode(TEXT, bos=True, eos=False)
    assert llm.tokenizer.decode(ids) == TEXT
    assert llm.config.dim == tiny_model[0].dim
    assert llm.n_ctx == llm.config.max_context == 256
    memory = llm.memory()
    assert memory["weights"] > 0
    assert set(memory) >= {"weights", "kv_cache", "kv_cache_max", "workspace"}
    assert "cpu" in repr(llm)


def test_close_and_context_manager(tiny_hf_folder):
    with Llama.load(tiny_hf_folder) as llm:
        tokenizer = llm.tokenizer
        assert llm.generate(TEXT, max_tokens=1).usage.prompt_tokens > 1
    for call in (
        lambda: llm.generate(TEXT),
        lambda: llm.stream(TEXT),
        lambda: llm.logits([1]),
        lambda: llm.score(TEXT),
        lambda: llm.embed(TEXT),
        lambda: llm.chat(MESSAGES, template="alpaca"),
        llm.memory,
    ):
        with pytest.raises(LlamaRtError, match="closed"):
            call()
    llm.close()
    assert tokenizer.encode(TEXT)
    assert "closed" in repr(llm)


def test_public_names_exist():
    assert set(llama_rt.__all__) <= set(dir(llama_rt))
    assert issubclass(llama_rt.CapacityError, LlamaRtError)
    assert isinstance(llama_rt.__version__, str)
    assert Chunk("a", [1]).finish_reason is None


def test_import_brings_only_what_it_needs():
    code = "import llama_rt, sys; print([m for m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(eval(found.stdout))
    assert not loaded & {
        "torch",
        "sentencepiece",
        "jinja2",
        "tqdm",
        "asyncio",
        "tokenizers",
        "json",
    }
