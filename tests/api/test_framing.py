"""Begin and end of a text by the model's own rule, in every call that takes one."""

import json

import numpy as np
import pytest

from llama_rt import Llama
from llama_rt.evaluation import perplexity

TEXT = "The llama drank from the river."


@pytest.fixture(scope="module", params=[(True, False), (False, False), (False, True)])
def ruled(request, tmp_path_factory, tiny_hf_folder):
    """The tiny model with flags in `tokenizer_config.json`, and the ids that its rule makes."""
    folder = tmp_path_factory.mktemp("ruled")
    for file in tiny_hf_folder.iterdir():
        if file.name != "tokenizer_config.json":
            (folder / file.name).symlink_to(file)
    add_bos, add_eos = request.param
    flags = {"add_bos_token": add_bos, "add_eos_token": add_eos}
    (folder / "tokenizer_config.json").write_text(json.dumps(flags))
    with Llama.load(folder, progress=False) as llm:
        plain = llm.tokenizer.encode(TEXT, bos=False, eos=False)
        yield llm, [1] * add_bos + plain + [2] * add_eos


def test_every_call_follows_the_rule(ruled):
    llm, ids = ruled
    assert llm.tokenizer.encode(TEXT) == ids
    assert llm.generate(TEXT, max_tokens=0).usage.prompt_tokens == len(ids)
    assert np.array_equal(llm.score(TEXT), llm.score(ids))
    assert np.array_equal(llm.embed(TEXT), llm.embed(ids))


def test_perplexity_puts_bos_only_where_the_model_does(ruled):
    llm, _ = ruled
    text = TEXT * 6
    *_, last = perplexity(llm, text, ctx=16)
    losses = []
    for at in range(0, len(llm.tokenizer.encode(text)) - 15, 16):
        window = llm.tokenizer.encode(text)[at : at + 16]
        if llm.tokenizer.settings.add_bos:
            window[0] = llm.tokenizer.bos_id
        losses.append(-llm.score(window)[8:])
    assert last.perplexity == pytest.approx(np.exp(np.mean(np.concatenate(losses))), rel=1e-6)
