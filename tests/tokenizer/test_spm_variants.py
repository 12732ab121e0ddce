"""Sentencepiece models trained with other rules than LLaMA's."""

import io
import random

import pytest
import sentencepiece

from llama_rt.errors import TokenizerError
from llama_rt.tokenizer import load_tokenizer
from reference.vocabulary import SENTENCES

VARIANTS = {
    "sentencepiece's defaults": {},
    "unigram": {"model_type": "unigram", "byte_fallback": True},
    "no dummy prefix": {"add_dummy_prefix": False},
    "no prefix, spaces kept": {
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "normalization_rule_name": "identity",
    },
    "own symbols": {
        "user_defined_symbols": ["<tool>", "llamaword"],
        "control_symbols": ["<|im_end|>", "<mask>"],
        "byte_fallback": True,
    },
    "other ids": {"pad_id": 0, "unk_id": 3, "bos_id": 2, "eos_id": 1, "unk_surface": "?"},
    "no bos": {"bos_id": -1},
}


def train(folder, options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=model,
        minloglevel=2,
        num_threads=1,
        hard_vocab_limit=False,
        **{"model_type": "bpe", "vocab_size": 420, **options},
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


@pytest.mark.parametrize("name", VARIANTS)
def test_agrees_with_the_library(tmp_path, name):
    library = train(tmp_path, VARIANTS[name])
    tokenizer = load_tokenizer(tmp_path, {}, "hf")
    assert tokenizer.bos_id == (library.bos_id() if library.bos_id() >= 0 else None)
    assert tokenizer.eos_id == library.eos_id()
    size = library.get_piece_size()
    assert tokenizer.vocab_size == size
    rng = random.Random(5)
    words = [
        "the",
        " ",
        "  ",
        "llama",
        "llamaword",
        "日",
        "é",
        "▁",
        "\n",
        "<s>",
        "ﬁ",
        "x",
    ]
    spaces = [id for id in range(size) if library.id_to_piece(id) == "▁"]
    for _ in range(300):
        text = "".join(rng.choices(words, k=rng.randrange(12)))
        assert tokenizer.encode(text, bos=False) == library.encode(text)
        ids = rng.choices([*range(4), *spaces, *range(size)], k=rng.randrange(10))
        whole = library.decode(ids)
        assert tokenizer.decode(ids) == whole
        cut = rng.randrange(len(ids) + 1)
        before = tokenizer.decode(ids[:cut])
        decoder = tokenizer.decoder(ids[:cut])
        rest = "".join(decoder.push([id]) for id in ids[cut:]) + decoder.finish()
        if whole.startswith(before):
            assert rest == whole[len(before) :]


def test_own_control_symbols(tmp_path):
    train(tmp_path, VARIANTS["own symbols"])
    tokenizer = load_tokenizer(tmp_path, {}, "hf")
    end = tokenizer.special_ids["<|im_end|>"]
    assert tokenizer.stop_ids == {tokenizer.eos_id, end}
    assert end not in tokenizer.encode("x<|im_end|>")
    assert tokenizer.encode("x<|im_end|>", special=True)[-1] == end


def test_symbols_of_a_format_are_not_read_from_text(tmp_path):
    # sentencepiece itself finds user-defined pieces in any text.
    library = train(tmp_path, VARIANTS["own symbols"])
    tokenizer = load_tokenizer(tmp_path, {}, "hf")
    tool = library.piece_to_id("<tool>")
    assert tool in library.encode("x<tool>")
    assert tool not in tokenizer.encode("x<tool>")
    assert tokenizer.encode("x<tool>", special=True)[-1] == tool
    assert tokenizer.decode([tool]) == "<tool>"
    assert library.piece_to_id("llamaword") in tokenizer.encode("xllamawordx")


def test_spaces_as_suffix_are_refused(tmp_path):
    train(tmp_path, {"treat_whitespace_as_suffix": True})
    with pytest.raises(TokenizerError, match="suffix"):
        load_tokenizer(tmp_path, {}, "hf")
