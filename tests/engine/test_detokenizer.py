"""Tokens to chunks: nothing lost, nothing twice, no half characters, stop strings cut."""

import pytest

from llama_rt.engine.detokenizer import IncrementalDetokenizer
from llama_rt.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_hf_folder):
    return load_tokenizer(tiny_hf_folder, None, "hf")


def ids_of(tokenizer, text):
    return tokenizer.encode(text, bos=False)


def fed(tokenizer, ids, stop=(), step=1, logprobs=False):
    """(chunks, transcript) of ids that come `step` at a time."""
    detokenizer = IncrementalDetokenizer(tokenizer, [1], stop, logprobs=logprobs)
    chunks = []
    for start in range(0, len(ids), step):
        part = ids[start : start + step]
        detokenizer.push(part, [-0.5] * len(part), [[(t, -0.5)] for t in part])
        chunks.append(detokenizer.take())
        if detokenizer.stopped:
            break
    detokenizer.finish()
    chunks.append(detokenizer.take("stop"))
    return [chunk for chunk in chunks if chunk is not None], detokenizer


TEXT = "The llama \N{SNOWMAN} drank\n\U0001f999 water. END of it"


@pytest.mark.parametrize("step", [1, 2, 3, 100])
@pytest.mark.parametrize("stop", [(), ("END",), ("drank", "END"), ("\n",), ("nothing",)])
def test_chunks_add_up(tokenizer, step, stop):
    ids = ids_of(tokenizer, TEXT)
    chunks, whole = fed(tokenizer, ids, stop, step)
    text = TEXT
    for string in stop:
        text = text.split(string)[0]
    assert whole.text == text
    assert "".join(chunk.text for chunk in chunks) == text
    assert [t for chunk in chunks for t in chunk.tokens] == whole.tokens
    assert whole.tokens == ids[: len(whole.tokens)]
    assert chunks[-1].finish_reason == "stop"
    assert all(chunk.finish_reason is None for chunk in chunks[:-1])


def test_no_chunk_has_half_a_character(tokenizer):
    ids = ids_of(tokenizer, "\U0001f999\N{SNOWMAN}")
    assert len(ids) > 4  # characters of several byte tokens
    chunks, _ = fed(tokenizer, ids)
    assert "".join(chunk.text for chunk in chunks) == "\U0001f999\N{SNOWMAN}"
    assert all("�" not in chunk.text for chunk in chunks)
    assert len(chunks) > 2


def test_half_a_character_at_the_end_is_replaced(tokenizer):
    ids = ids_of(tokenizer, "a\N{SNOWMAN}")[:-1]
    chunks, whole = fed(tokenizer, ids)
    assert whole.tokens == ids
    assert whole.text == tokenizer.decode([1, *ids])
    assert whole.text.startswith("a�")
    assert "".join(chunk.text for chunk in chunks) == whole.text


def test_tokens_after_the_stop_are_dropped(tokenizer):
    ids = ids_of(tokenizer, "drank water. END of it")
    _, whole = fed(tokenizer, ids, ("END",), step=100, logprobs=True)
    assert whole.text == "drank water. "
    decoded = tokenizer.decode([1, *whole.tokens])
    assert decoded.startswith(whole.text)
    shorter = tokenizer.decode([1, *whole.tokens[:-1]])
    assert len(shorter) < len(whole.text)  # its last token reaches into the text
    assert [entry.token for entry in whole.logprobs] == whole.tokens


def test_log_probabilities_travel_with_their_tokens(tokenizer):
    ids = ids_of(tokenizer, TEXT)
    chunks, whole = fed(tokenizer, ids, logprobs=True)
    assert [entry.token for entry in whole.logprobs] == ids
    assert [e for chunk in chunks for e in chunk.logprobs] == whole.logprobs
    for chunk in chunks:
        assert [entry.token for entry in chunk.logprobs] == chunk.tokens
    assert whole.logprobs[0].piece == tokenizer.piece(ids[0])
