"""Steps of `tokenizer.json` files, and Mistral's own files, as a folder brings them."""

from __future__ import annotations

import base64
import json
import random
import sys

import pytest

from llama_rt.errors import TokenizerError
from llama_rt.tokenizer import load_tokenizer
from support.fuzz_texts import fuzz_text
from support.oracles import real_pair
from support.real_models import real_file
from tokenizer.test_settings import byte_level

p = pytest.importorskip("tokenizers.pre_tokenizers")
from tokenizers import Regex, normalizers  # noqa: E402

LAST = p.ByteLevel(add_prefix_space=False, use_regex=False)
DIGITS = p.Digits(individual_digits=False)


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        ([p.ByteLevel(add_prefix_space=False)], "gpt-2"),
        ([p.ByteLevel(add_prefix_space=True)], "gpt-2"),
        ([p.Digits(individual_digits=True), p.ByteLevel(add_prefix_space=False)], "smollm"),
        ([p.Split(" ", "isolated"), LAST], None),
        ([p.Split(Regex(r"(\d)(?=x)|\s"), "isolated"), DIGITS, LAST], None),
        ([p.Punctuation("contiguous"), LAST], None),
        ([p.Punctuation("isolated"), DIGITS, LAST], None),
    ],
    ids=repr,
)
def test_patterns_need_no_library(tmp_path, monkeypatch, steps, name):
    library = byte_level(steps)
    library.save(str(tmp_path / "tokenizer.json"))
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    tokenizer = load_tokenizer(tmp_path, {}, "hf")
    assert tokenizer.settings.pre_tokenizer == name
    rng = random.Random(6)
    for _ in range(150):
        text = fuzz_text(rng)
        assert tokenizer.encode(text, bos=False) == library.encode(text).ids


@pytest.mark.parametrize(
    "change",
    [
        lambda t: setattr(t, "normalizer", normalizers.Lowercase()),
        lambda t: setattr(t, "pre_tokenizer", p.Sequence([p.Split(" ", "removed"), LAST])),
        lambda t: setattr(t, "pre_tokenizer", p.Sequence([p.Split(" ", "merged_with_next"), LAST])),
    ],
)
def test_other_steps_are_left_to_the_library(tmp_path, change):
    library = byte_level([LAST])
    change(library)
    library.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path, {}, "hf")
    assert tokenizer.settings.pre_tokenizer is None
    rng = random.Random(7)
    for _ in range(50):
        text = fuzz_text(rng)
        assert tokenizer.encode(text, bos=False) == library.encode(text).ids


def tekken(**more) -> dict:
    rows = [bytes([byte]) for byte in range(256)] + [b"th", b"the", b" the"]
    vocab = [
        {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
        for rank, token in enumerate(rows)
    ]
    config = {"pattern": r" ?\w+|\s+", "default_vocab_size": 278, "default_num_special_tokens": 20}
    return {"config": config, "vocab": vocab, **more}


def test_tekken_folders(tmp_path):
    (tmp_path / "tekken.json").write_text(json.dumps(tekken()))
    tokenizer = load_tokenizer(tmp_path, {}, "meta")
    # 258 of 259 tokens have rows; the text begins with <s>, and control tokens are by id.
    assert tokenizer.encode(" the[/INST]", special=True) == [1, 20 + 32, 20 + 257, 4]
    assert tokenizer.decode([52, 277, 4]) == " the"
    assert tokenizer.settings.add_bos
    assert tokenizer.stop_ids == {2}
    listed = [{"rank": 5, "token_str": "[NEW]", "is_control": True}]
    (tmp_path / "tekken.json").write_text(json.dumps(tekken(special_tokens=listed)))
    names = load_tokenizer(tmp_path, {}, "meta").special_ids
    assert (names["[NEW]"], names["<SPECIAL_0>"]) == (5, 0)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"config": {"pattern": "x"}}, "default_num_special_tokens"),
        ({"vocab": []}, "vocab: expected at least 258 tokens"),
        ({"vocab": [{"rank": 0, "token_bytes": "?"}] * 300}, r"vocab\[0\]"),
        ({"special_tokens": [{"rank": 99, "token_str": "x"}]}, "special_tokens"),
    ],
)
def test_bad_tekken_files_are_named(tmp_path, more, says):
    (tmp_path / "tekken.json").write_text(json.dumps(tekken(**more)))
    with pytest.raises(TokenizerError, match=says):
        load_tokenizer(tmp_path, {}, "hf")


def test_mistrals_sentencepiece_files_are_found(tmp_path):
    (tmp_path / "tokenizer.model.v3").write_bytes(real_file("mistral-v3").read_bytes())
    tokenizer = load_tokenizer(tmp_path, {}, "meta")
    assert tokenizer.special_ids["[INST]"] == 3


def test_smollm2_says_what_it_is():
    ours, _ = real_pair("smollm2")
    assert not ours.settings.add_bos
    assert ours.bos_id == 1
    assert {0, 2} <= ours.stop_ids
