"""Greedy continuations are pinned: the same tokens from every format, ISA level and release."""

import json
from pathlib import Path

import numpy as np
import pytest

from llama_rt import Llama, _native
from reference.model import forward

PINNED = json.loads(Path(__file__).with_name("greedy.json").read_text())


def greedy(model, prompt, steps):
    """Tokens of highest logit and the smallest lead of a chosen one, by the float64 model."""
    ids, lead = list(prompt), np.inf
    for _ in range(steps):
        last = forward(*model, ids)[-1]
        second, first = np.sort(last)[-2:]
        lead = min(lead, first - second)
        ids.append(int(np.argmax(last)))
    return ids[len(prompt) :], lead


def test_pinned_tokens_are_the_references(tiny_model):
    for prompt, tokens in zip(PINNED["prompts"], PINNED["tokens"], strict=True):
        got, lead = greedy(tiny_model, prompt, len(tokens))
        assert got == tokens
        assert lead > 1e-3, "too close to call in half precision: choose another prompt"


@pytest.mark.parametrize("isa", _native.cpu_info().tiers)
@pytest.mark.parametrize("fixture", ["tiny_hf_folder", "tiny_meta_folder", "tiny_gguf_file"])
def test_every_format_continues_alike(fixture, isa, request):
    path = request.getfixturevalue(fixture)
    steps = len(PINNED["tokens"][0])
    with Llama.load(path, isa=isa, progress=False, kv_dtype="f32") as llm:
        alone = [
            llm.generate(prompt, max_tokens=steps, temperature=0.0) for prompt in PINNED["prompts"]
        ]
        together = llm.generate(PINNED["prompts"], max_tokens=steps, temperature=0.0)
    assert [list(c.tokens) for c in alone] == PINNED["tokens"]
    assert [list(c.tokens) for c in together] == PINNED["tokens"]
