"""Byte-level BPE against the tokenizers library and against Meta's algorithm written out."""

import base64
import itertools
import json
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama_rt.errors import MissingExtraError, TokenizerError
from llama_rt.tokenizer import load_tokenizer
from llama_rt.tokenizer.bpe.alphabet import CHAR_TO_BYTE
from llama_rt.tokenizer.bpe.bpe_ranks import special_texts
from llama_rt.tokenizer.bpe.pre_tokenizers import LLAMA3

from .conftest import BPE_TOKENS as BASE

SIZE = BASE + 256

pytest.importorskip("tokenizers")
regex = pytest.importorskip("regex")

QUICK = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
# Characters of every kind whose categories do not depend on the version of Unicode.
TEXTS = st.text(
    alphabet=st.one_of(
        st.characters(max_codepoint=0x2FF, codec="utf-8"),
        st.sampled_from(" \n\r\t'abcthellamas019<|>_日é本🦙\u3000жди�"),
    ),
    max_size=60,
)


def ranks_of(library) -> dict[bytes, int]:
    vocab = library.get_vocab(with_added_tokens=False)
    return {bytes(CHAR_TO_BYTE[c] for c in text): id for text, id in vocab.items()}


@pytest.fixture(scope="session")
def meta_folder(bpe_library, tmp_path_factory):
    """Meta's layout: the same vocabulary as base64 lines."""
    folder = tmp_path_factory.mktemp("ranks")
    ranks = sorted(ranks_of(bpe_library).items(), key=lambda item: item[1])
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks]
    (folder / "tokenizer.model").write_text("".join(lines))
    return folder


def gguf_of(library, **overrides) -> dict:
    document = json.loads(library.to_str())
    vocab = library.get_vocab(with_added_tokens=True)
    texts = sorted(vocab, key=vocab.__getitem__)
    base = library.get_vocab_size(with_added_tokens=False)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.token_type": [1] * base + [3] * (len(texts) - base),
        "tokenizer.ggml.merges": [" ".join(pair) for pair in document["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": base,
        "tokenizer.ggml.eos_token_id": base + 9,
        **{f"tokenizer.ggml.{key}": value for key, value in overrides.items()},
    }


@pytest.fixture(scope="session", params=["json", "ranks", "gguf"])
def tokenizer(request, bpe_library, bpe_folder, meta_folder):
    if request.param == "json":
        return load_tokenizer(bpe_folder, {"vocab_size": SIZE, "bos_token_id": BASE}, "hf")
    if request.param == "ranks":
        return load_tokenizer(meta_folder, {"vocab_size": SIZE, "use_scaled_rope": True}, "meta")
    return load_tokenizer("model.gguf", gguf_of(bpe_library), "gguf")


def meta_encode(ranks: dict[bytes, int], text: str) -> list[int]:
    """Meta's encoder: split by pattern, whole pieces first, then the lowest rank, leftmost."""
    ids = []
    for word in regex.findall(LLAMA3, text):
        parts = [word.encode()] if word.encode() in ranks else [bytes([b]) for b in word.encode()]
        while True:
            pairs = [(ranks.get(a + b), at) for at, (a, b) in enumerate(itertools.pairwise(parts))]
            found = [(rank, at) for rank, at in pairs if rank is not None]
            if not found:
                break
            at = min(found)[1]
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        ids += [ranks[part] for part in parts]
    return ids


@QUICK
@given(text=TEXTS)
def test_encodes_as_meta_does(tokenizer, bpe_library, text):
    ids = tokenizer.encode(text, bos=False)
    assert ids == meta_encode(ranks_of(bpe_library), text)
    assert tokenizer.encode(text) == [BASE, *ids]
    assert tokenizer.decode(ids) == text


@QUICK
@given(text=TEXTS)
def test_encodes_as_the_library_does(tokenizer, bpe_library, text):
    whole = f"<|begin_of_text|>{text}<|eot_id|>{text}"
    library = bpe_library.encode(whole, add_special_tokens=False)
    assert tokenizer.encode(whole, special=True) == library.ids


def test_control_tokens_are_not_read_from_text(tokenizer):
    for text in ["<|eot_id|>", "a<|begin_of_text|>", "<|reserved_special_token_2|>"]:
        assert max(tokenizer.encode(text, bos=False)) < BASE
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("<|begin_of_text|>a", special=True).count(BASE) == 1


def test_special_ids(tokenizer):
    assert tokenizer.vocab_size == SIZE
    assert tokenizer.bos_id == BASE
    assert tokenizer.eos_id in (BASE + 1, BASE + 9)
    assert tokenizer.stop_ids == {BASE + 1, BASE + 8, BASE + 9}
    assert tokenizer.unsampled_ids == frozenset()
    assert tokenizer.decode([BASE, *tokenizer.encode("hi", bos=False), BASE + 9]) == "hi"
    assert tokenizer.piece(BASE + 9) == "<|eot_id|>"
    assert tokenizer.piece(tokenizer.encode(" the", bos=False)[0]).startswith(" ")


@QUICK
@given(data=st.data())
def test_streams_what_decode_gives(tokenizer, bpe_library, data):
    tokens = {rank: token for token, rank in ranks_of(bpe_library).items()}
    some = st.one_of(
        st.integers(0, BASE + 1), st.sampled_from(meta_encode(ranks_of(bpe_library), "🦙"))
    )
    ids = data.draw(st.lists(some, max_size=14))
    cut = data.draw(st.integers(0, len(ids)))
    expected, run = "", b""
    for id in [*ids, BASE]:
        if id < BASE:
            run += tokens[id]
        else:
            expected, run = expected + run.decode(errors="replace"), b""
    assert tokenizer.decode(ids) == expected
    decoder = tokenizer.decoder(ids[:cut])
    parts = [decoder.push([id]) for id in ids[cut:]] + [decoder.finish()]
    before = tokenizer.decode(ids[:cut])
    if expected.startswith(before):
        assert "".join(parts) == expected[len(before) :]
    else:
        assert expected.endswith("".join(parts))


@pytest.mark.parametrize("ids", [[SIZE], [-1], ["x"], None])
def test_wrong_ids_are_refused(tokenizer, ids):
    with pytest.raises(TokenizerError):
        tokenizer.decode(ids)


def test_lists_of_special_tokens():
    old, new = special_texts(newer=False), special_texts(newer=True)
    assert len(set(old)) == len(set(new)) == 256
    assert old[:2] == new[:2] == ["<|begin_of_text|>", "<|end_of_text|>"]
    assert old[8] == "<|reserved_special_token_4|>"
    assert old[10:12] == ["<|reserved_special_token_5|>", "<|reserved_special_token_6|>"]
    assert old[255] == "<|reserved_special_token_250|>"
    assert [new[at] for at in (4, 5, 8, 10, 11)] == [
        "<|finetune_right_pad_id|>",
        "<|step_id|>",
        "<|eom_id|>",
        "<|python_tag|>",
        "<|image|>",
    ]
    assert new[12] == "<|reserved_special_token_2|>"
    assert new[255] == "<|reserved_special_token_245|>"
    assert old[6:8] == new[6:8] == ["<|start_header_id|>", "<|end_header_id|>"]
    assert old[9] == new[9] == "<|eot_id|>"


def test_llama_3_0_has_no_end_of_message(meta_folder):
    tokenizer = load_tokenizer(meta_folder, {"vocab_size": SIZE + 4}, "meta")
    assert tokenizer.stop_ids == {BASE + 1, BASE + 9}
    assert tokenizer.unsampled_ids == {SIZE, SIZE + 1, SIZE + 2, SIZE + 3}


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("!!!! 0\n", "tokenizer.model"),
        ("YQ== 0\nYg== 2\n", "ranks"),
        ("YQ== 0\nYg== x\n", "line 2"),
        ("YQ== 0\nYg== 1\n", "single bytes"),
    ],
)
def test_bad_rank_files_are_refused(tmp_path, lines, says):
    (tmp_path / "tokenizer.model").write_text(lines)
    with pytest.raises(TokenizerError, match=says):
        load_tokenizer(tmp_path, {}, "meta")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pre": "qwen9"}, "'qwen9' is unknown; known are .*llama-bpe"),
        ({"pre": "gemma4"}, "not byte-level"),
        ({"merges": None}, "merges is missing"),
        ({"merges": ["zzzz qqqq"]}, "zzzz qqqq"),
        ({"merges": ["ab"]}, "does not join"),
        ({"merges": [1]}, r"model\.gguf: tokenizer\.ggml\.merges\[0\]: expected a string, got int"),
        ({"tokens": [b"a"]}, r"model\.gguf: tokenizer\.ggml\.tokens\[0\]: expected a string"),
        ({"eos_token_id": 5000}, "eos_token_id"),
    ],
)
def test_bad_gguf_keys_are_named(bpe_library, change, says):
    with pytest.raises(TokenizerError, match=says):
        load_tokenizer("model.gguf", gguf_of(bpe_library, **change), "gguf")


def test_bad_json_files_are_refused(tmp_path, bpe_folder):
    text = (bpe_folder / "tokenizer.json").read_text()
    document = json.loads(text)
    bad = [
        "",
        "[]",
        "[" * 100000,
        text[: len(text) // 2],
        "{}",
        json.dumps({"model": {"type": "Unigram", "vocab": []}}),
        json.dumps({**document, "pre_tokenizer": None, "decoder": None}),
        json.dumps({**document, "model": {**document["model"], "merges": [["x", "qqqqq"]]}}),
        json.dumps({**document, "model": {**document["model"], "vocab": {"a": -1}}}),
        json.dumps({**document, "added_tokens": [{"id": 1 << 40, "content": "x"}]}),
    ]
    for content in bad:
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(TokenizerError, match=r"tokenizer.*\.json"):
            load_tokenizer(tmp_path, {}, "hf")


def test_the_missing_extra_is_named_with_the_step_that_needs_it(tmp_path, bpe_folder, monkeypatch):
    document = json.loads((bpe_folder / "tokenizer.json").read_text())
    document["normalizer"] = {"type": "Lowercase"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    says = r"normalizer Lowercase needs .*pip install 'llama-rt\[hf\]'"
    with pytest.raises(MissingExtraError, match=says):
        load_tokenizer(tmp_path, {}, "hf")
    load_tokenizer(bpe_folder, {}, "hf")


def test_nothing_is_imported_early():
    code = (
        "import sys, llama_rt.tokenizer\n"
        "assert not {'tokenizers', 'sentencepiece', 'jinja2', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
