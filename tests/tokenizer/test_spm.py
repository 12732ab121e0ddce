"""Sentencepiece vocabularies against the sentencepiece library itself."""

import functools
import json
import random

import numpy as np
import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama_rt.errors import TokenizerError
from llama_rt.tokenizer import load_tokenizer
from llama_rt.tokenizer.sentencepiece.spm_model import (
    PieceKind,
    SpmModel,
    parse_model,
    serialize_model,
)

from .conftest import gguf_metadata

QUICK = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TEXTS = st.text(
    alphabet=st.one_of(st.characters(codec="utf-8"), st.sampled_from(" ▁\nabcthe<>/s|日é🦙�")),
    max_size=60,
)


@pytest.fixture(scope="module", params=["file", "gguf"])
def tiny(request, tiny_tokenizer_file):
    if request.param == "file":
        return load_tokenizer(tiny_tokenizer_file.parent, {}, "hf")
    return load_tokenizer(tiny_tokenizer_file, gguf_metadata(tiny_tokenizer_file), "gguf")


@pytest.fixture(scope="module")
def library(tiny_tokenizer_file):
    return sentencepiece.SentencePieceProcessor(model_file=str(tiny_tokenizer_file))


@pytest.fixture(scope="module")
def real(real_model_file):
    return load_tokenizer(real_model_file, {}, "hf", override=real_model_file)


@pytest.fixture(scope="module")
def real_library(real_model_file):
    return sentencepiece.SentencePieceProcessor(model_file=str(real_model_file))


@QUICK
@given(text=TEXTS)
def test_encodes_like_the_library(tiny, library, text):
    assert tiny.encode(text, bos=False) == library.encode(text)
    assert tiny.encode(text, eos=True) == [1, *library.encode(text), 2]


@QUICK
@given(text=TEXTS)
def test_real_vocabulary_encodes_like_the_library(real, real_library, text):
    assert real.encode(text, bos=False) == real_library.encode(text)


@functools.cache
def unknown_surface(library):
    """What the library shows for <unk>; GGUF does not keep it."""
    return parse_model(library.serialized_model_proto()).unk_surface


@QUICK
@given(data=st.data())
def test_decodes_and_streams_like_the_library(tiny, library, data):
    check_decoding(tiny, library, data, spaces=[448])


@QUICK
@given(data=st.data())
def test_real_vocabulary_decodes_and_streams_like_the_library(real, real_library, data):
    check_decoding(real, real_library, data, spaces=[29871, 259])


def check_decoding(tokenizer, library, data, spaces):
    size = library.get_piece_size()
    some = st.one_of(
        st.integers(0, size - 1), st.integers(3, 258), st.sampled_from([0, 1, 2, *spaces])
    )
    ids = data.draw(st.lists(some, max_size=16))
    cut = data.draw(st.integers(0, len(ids)))
    surface = unknown_surface(library)
    whole = library.decode(ids)
    ours = tokenizer.decode(ids)
    assert ours.replace(" ⁇ ", surface) == whole.replace(" ⁇ ", surface)
    decoder = tokenizer.decoder(ids[:cut])
    parts = [decoder.push([id]) for id in ids[cut:]] + [decoder.finish()]
    before = tokenizer.decode(ids[:cut])
    if ours.startswith(before):
        assert "".join(parts) == ours[len(before) :]
    else:  # the prompt ended within a character: it comes whole
        assert ours.endswith("".join(parts))


def test_stream_holds_characters_back(real):
    decoder = real.decoder([1])
    assert [decoder.push([id]) for id in (243, 162, 155, 131)] == ["", "", "", "😀"]
    assert decoder.push([243, 162]) == ""
    assert decoder.push([15043]) == "�� Hello"
    assert decoder.push([243]) == ""
    assert decoder.finish() == "�"
    decoder = real.decoder([243, 162])
    assert decoder.push([155, 131]) == "😀"
    decoder = real.decoder([243, 162])
    assert decoder.push([15043]) == " Hello"


def test_stream_after_a_prompt_keeps_the_space(real):
    prompt = real.encode("Hello")
    assert real.decoder(prompt).push([3186]) == " world"
    assert real.decoder([1]).push([3186]) == "world"


SHEET = [
    ([1, 15043, 2], "Hello"),
    ([0], " ⁇ "),
    ([0, 15043], " ⁇  Hello"),
    ([259], " "),
    ([29871, 29871, 15043], "  Hello"),
    ([13, 15043], "\n Hello"),
    ([1, 15043, 2, 15043], "Hello Hello"),
    ([258], "�"),
    ([258, 15043], "� Hello"),
    ([243, 162, 155], "���"),
    ([3], "\0"),
    ([15043, 258, 13], "Hello�\n"),
]


@pytest.mark.parametrize(("ids", "text"), SHEET)
def test_observed_decodings(real, ids, text):
    assert real.decode(ids) == text


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("A</s>USER: b", [1, 319, 2, 3148, 1001, 29901, 289]),
        ("A</s> USER: b", [1, 319, 2, 29871, 3148, 1001, 29901, 289]),
        ("Hi</s>\nx", [1, 6324, 2, 29871, 13, 29916]),
        ("</s>x", [1, 2, 921]),
        ("Hello <s>.", [1, 15043, 29871, 1, 869]),
    ],
)
def test_special_texts_follow_the_rule_of_2023(real, text, ids):
    assert real.encode(text, special=True) == ids
    assert 2 not in real.encode(text)
    assert 1 not in real.encode(text, bos=False)


def test_begin_is_never_doubled(real):
    assert real.encode("<s>Hello", special=True) == [1, 15043]
    assert real.encode("Hello</s>", eos=True, special=True) == [1, 15043, 2]
    assert real.encode("", eos=True) == [1, 2]


def test_lone_surrogates_are_replacement_characters(tiny):
    assert tiny.encode("a\udc80b") == tiny.encode("a�b")


@pytest.mark.parametrize("ids", [[512], [-1], [0, 1, 1 << 40], ["a"], "abc", [1.0], 5, [None]])
def test_wrong_ids_are_refused(tiny, ids):
    with pytest.raises(TokenizerError):
        tiny.decode(ids)
    with pytest.raises(TokenizerError):
        tiny.decoder().push(ids)


def test_numpy_ids_are_welcome(tiny):
    ids = np.array(tiny.encode("hello there"), np.int32)
    assert tiny.decode(ids) == "hello there"


@pytest.mark.parametrize("text", [b"abc", None, 5])
def test_wrong_texts_are_refused(tiny, text):
    with pytest.raises(TokenizerError, match="expected str"):
        tiny.encode(text)


def test_golden_texts(shared_golden):
    cases = json.loads((shared_golden / "tokens.json").read_text())
    gguf = pytest.importorskip("gguf")
    reader = gguf.GGUFReader(shared_golden / "gguf" / "F16.gguf")
    metadata = {key: field.contents() for key, field in reader.fields.items()}
    for tokenizer in (
        load_tokenizer(shared_golden / "hf-f32", {"vocab_size": 512}, "hf"),
        load_tokenizer(shared_golden / "gguf" / "F16.gguf", metadata, "gguf"),
    ):
        assert tokenizer.vocab_size == 512
        assert not tokenizer.unsampled_ids
        for case in cases:
            assert tokenizer.encode(case["text"]) == case["ids"]
            assert tokenizer.decode(case["ids"]) == case["decoded"]


def test_padding_rows_of_a_resized_model(tmp_path, tiny_tokenizer_file):
    (tmp_path / "tokenizer.model").write_bytes(tiny_tokenizer_file.read_bytes())
    # What ChatDoctor ships: wrong ids, </s> for everything, one added token.
    (tmp_path / "added_tokens.json").write_text('{"[PAD]": 512}')
    (tmp_path / "special_tokens_map.json").write_text(
        '{"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "[PAD]"}'
    )
    (tmp_path / "generation_config.json").write_text('{"bos_token_id": 0, "eos_token_id": 1}')
    tokenizer = load_tokenizer(tmp_path, {"vocab_size": 520, "eos_token_id": 1}, "hf")
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.stop_ids) == (1, 2, {2})
    assert tokenizer.vocab_size == 520
    assert tokenizer.unsampled_ids == set(range(512, 520))
    assert tokenizer.decode([512, 519]) == ""
    assert tokenizer.encode("[PAD]x", bos=False, special=True)[0] == 512
    assert 512 not in tokenizer.encode("[PAD]x")


def test_added_tokens(tmp_path, tiny_tokenizer_file):
    (tmp_path / "tokenizer.model").write_bytes(tiny_tokenizer_file.read_bytes())
    listed = {
        "512": {"content": "<|im_start|>", "special": True},
        "513": {"content": "<|im_end|>", "special": True},
        "514": {"content": "llamaword", "special": False},
        "515": {"content": "<tool>", "special": False},
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": listed}))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 513, 1, 300]}')
    tokenizer = load_tokenizer(tmp_path, None, "hf")
    assert tokenizer.stop_ids == {2, 513}
    assert tokenizer.unsampled_ids == frozenset()
    plain = tokenizer.encode("a llamaword<|im_end|><tool>")
    assert 514 in plain
    assert not {512, 513, 515} & set(plain)
    assert {513, 514, 515} < set(tokenizer.encode("a llamaword<|im_end|><tool>", special=True))
    assert tokenizer.decode([512, 514, 515, 513]) == "llamaword<tool>"
    assert tokenizer.piece(513) == "<|im_end|>"


def test_gguf_added_and_unused_rows(tiny_tokenizer_file):
    extra = [
        ("[PAD]", -1000.0, PieceKind.USER_DEFINED),
        ("<|im_end|>", -1000.0, PieceKind.USER_DEFINED),
        ("[PAD514]", -10000.0, PieceKind.UNUSED),
        ("llamaword", -1000.0, PieceKind.USER_DEFINED),
        ("the", -5.0, PieceKind.NORMAL),
        ("the", -6.0, PieceKind.NORMAL),
        ("", 0.0, PieceKind.NORMAL),
    ]
    metadata = gguf_metadata(tiny_tokenizer_file, extra, eot_token_id=513)
    tokenizer = load_tokenizer(tiny_tokenizer_file, metadata, "gguf")
    assert tokenizer.vocab_size == 519
    assert tokenizer.stop_ids == {2, 513}
    assert tokenizer.unsampled_ids == {512, 514}
    assert 513 not in tokenizer.encode("x<|im_end|>")
    assert 513 in tokenizer.encode("x<|im_end|>", special=True)
    assert 515 in tokenizer.encode("my llamaword")
    assert tokenizer.decode([512, 513, 515, 516]) == "llamawordthe"


def test_gguf_rules_of_spaces(tiny_tokenizer_file):
    metadata = gguf_metadata(tiny_tokenizer_file, add_space_prefix=False)
    tokenizer = load_tokenizer(tiny_tokenizer_file, metadata, "gguf")
    ids = tokenizer.encode("hello", bos=False)
    assert tokenizer.piece(ids[0])[0] != " "
    assert tokenizer.decode(tokenizer.encode(" hello")) == " hello"
    metadata = gguf_metadata(tiny_tokenizer_file, remove_extra_whitespaces=True)
    tokenizer = load_tokenizer(tiny_tokenizer_file, metadata, "gguf")
    assert tokenizer.encode("  hello   you ") == tokenizer.encode("hello you")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scores": [1.0]}, "scores: expected 512 elements, got 1"),
        ({"tokens": None}, "tokens is missing"),
        ({"tokens": "abc"}, "tokens: expected an array"),
        ({"tokens": list(range(512))}, r"tokens\[0\]: expected a string, got int"),
        ({"tokens": ["a"] * 511 + [None]}, r"tokens\[511\]: expected a string, got NoneType"),
        ({"token_type": [9] * 512}, "token_type: 9 is not one of"),
        ({"token_type": [1] * 100 + [6] + [1] * 411}, "byte tokens, expected 256"),
        ({"scores": [float("nan")] * 512}, "finite"),
        ({"bos_token_id": 512}, "bos_token_id: 512 is not in"),
        ({"model": "bert"}, "'bert' is not supported"),
        ({"model": "none"}, "has no tokenizer"),
    ],
)
def test_bad_gguf_keys_are_named(tiny_tokenizer_file, change, says):
    metadata = gguf_metadata(tiny_tokenizer_file, **change)
    with pytest.raises(TokenizerError, match=says) as error:
        load_tokenizer("model.gguf", metadata, "gguf")
    assert "model.gguf" in str(error.value)


def test_broken_model_files_are_refused(tmp_path, tiny_tokenizer_file):
    data = tiny_tokenizer_file.read_bytes()
    file = tmp_path / "tokenizer.model"
    rng = random.Random(7)
    refused = 0
    for _ in range(300):
        bad = bytearray(data)
        if rng.random() < 0.4:
            del bad[rng.randrange(len(bad)) :]
        else:
            for _ in range(rng.choice([1, 3, 30])):
                bad[rng.randrange(len(bad))] = rng.randrange(256)
        file.write_bytes(bad)
        try:
            tokenizer = load_tokenizer(tmp_path, {}, "hf")
            tokenizer.decode(tokenizer.encode("some text 日本", special=True))
        except TokenizerError as error:
            refused += str(file) in str(error)
    assert refused > 100


def test_a_file_cut_between_pieces_is_refused(tmp_path):
    whole = serialize_model(SpmModel(texts=["<unk>", "a"], scores=[0, 0], kinds=[2, 1]))
    (tmp_path / "tokenizer.model").write_bytes(whole)
    assert load_tokenizer(tmp_path, {}, "hf").vocab_size == 2
    rules = whole.index(b"\x12", 20)  # the first field after the pieces
    (tmp_path / "tokenizer.model").write_bytes(whole[:rules])
    with pytest.raises(TokenizerError, match="truncated"):
        load_tokenizer(tmp_path, {}, "hf")


@pytest.mark.parametrize("content", [b"", b"\0", b"hello world", b"GGUF" + b"\0" * 40, b"\n" * 9])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.model"):
        load_tokenizer(tmp_path, {}, "meta")


def test_where_the_tokenizer_is_looked_for(tmp_path, tiny_tokenizer_file):
    (tmp_path / "7B").mkdir()
    with pytest.raises(TokenizerError, match=r"no tokenizer\.model"):
        load_tokenizer(tmp_path / "7B", {}, "meta")
    (tmp_path / "tokenizer.model").write_bytes(tiny_tokenizer_file.read_bytes())
    assert load_tokenizer(tmp_path / "7B", {"vocab_size": -1}, "meta").vocab_size == 512
    with pytest.raises(TokenizerError):
        load_tokenizer(tmp_path / "7B", {}, "hf")
    assert load_tokenizer(tmp_path / "model.safetensors", {}, "safetensors").vocab_size == 512
    assert load_tokenizer(tmp_path / "x.gguf", {}, "gguf", override=tmp_path).vocab_size == 512
    with pytest.raises(TokenizerError, match="no such tokenizer file"):
        load_tokenizer(tmp_path, {}, "hf", override=tmp_path / "nothing")
