"""`tokenizer.json` of sentencepiece-style vocabularies when there is no `tokenizer.model`."""

import itertools
import json
import random
import sys

import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama_rt.errors import TokenizerError
from llama_rt.tokenizer import load_tokenizer
from llama_rt.tokenizer.sentencepiece.spm_model import parse_model

from .test_spm_variants import VARIANTS, train

TEXTS = st.text(
    alphabet=st.one_of(st.characters(codec="utf-8"), st.sampled_from(" \nabcthe<>/s日é")),
    max_size=60,
)

OWN = VARIANTS["own symbols"]["user_defined_symbols"]
KEPT_SPACES = {"remove_extra_whitespaces": False, "normalization_rule_name": "identity"}
FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)


def converted(model_file) -> dict:
    """The file transformers 4.x writes: all cuts of all pieces, best score first."""
    sp = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    pieces = [sp.id_to_piece(id) for id in range(sp.get_piece_size())]
    vocab = {piece: id for id, piece in enumerate(pieces)}
    cuts = [
        (sp.get_score(vocab[piece]), piece[:at], piece[at:])
        for piece in pieces
        for at in range(1, len(piece))
        if piece[:at] in vocab and piece[at:] in vocab
    ]
    cuts.sort(key=lambda cut: (cut[0], len(cut[1]), len(cut[2])), reverse=True)
    specials = [{"id": id, "content": pieces[id], "special": True, **FLAGS} for id in range(3)]
    return {
        "added_tokens": specials,
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "byte_fallback": True,
            "fuse_unk": True,
            "vocab": vocab,
            "merges": [[left, right] for _, left, right in cuts],
        },
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_tokenizer_file):
    folder = tmp_path_factory.mktemp("spm-json")
    (folder / "tokenizer.json").write_text(json.dumps(converted(tiny_tokenizer_file)))
    # Ids as wrong as in 2023.
    (folder / "generation_config.json").write_text('{"bos_token_id": 0, "eos_token_id": 1}')
    return folder


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=TEXTS)
def test_is_the_sentencepiece_model_again(loaded, text):
    library, tokenizer = loaded
    assert tokenizer.encode(text, bos=False) == library.encode(text)


@pytest.fixture(scope="module")
def loaded(folder, tiny_tokenizer_file):
    library = sentencepiece.SentencePieceProcessor(model_file=str(tiny_tokenizer_file))
    return library, load_tokenizer(folder, {"vocab_size": 512}, "hf")


def test_ids(loaded):
    _, tokenizer = loaded
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.stop_ids) == (1, 2, {2})
    assert tokenizer.decode(tokenizer.encode("Hello 🦙", eos=True)) == "Hello 🦙"


def test_real_vocabulary(tmp_path, real_model_file):
    (tmp_path / "tokenizer.json").write_text(json.dumps(converted(real_model_file)))
    tokenizer = load_tokenizer(tmp_path, {}, "hf")
    library = sentencepiece.SentencePieceProcessor(model_file=str(real_model_file))
    for text in ["a  b   c    d", " " * 40 + "x" + " " * 17, "  \n  x", "Below is an instruction."]:
        assert tokenizer.encode(text, bos=False) == library.encode(text)


def test_other_merges_are_left_to_the_library(tmp_path, tiny_tokenizer_file):
    tokenizers = pytest.importorskip("tokenizers")
    document = converted(tiny_tokenizer_file)
    document["model"]["merges"] = document["model"]["merges"][::2]
    document["added_tokens"].append({"id": 512, "content": "llamaword", "special": False})
    bare = json.dumps({**document, "added_tokens": []})
    library = tokenizers.Tokenizer.from_str(bare)
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    tokenizer = load_tokenizer(tmp_path, {}, "hf")
    text = "Once upon a time <s> 日本"
    assert tokenizer.encode(text, bos=False) == library.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode("a llamaword")[-1] == 512


def with_own_pieces(folder) -> tuple[dict, sentencepiece.SentencePieceProcessor]:
    """What transformers 5 writes for a model with user-defined pieces, and the model."""
    library = train(folder, {**VARIANTS["own symbols"], **KEPT_SPACES})
    document = converted(folder / "tokenizer.model")
    own = [id for id in range(library.get_piece_size()) if library.id_to_piece(id) in OWN]
    document["added_tokens"] += [
        {"id": id, "content": library.id_to_piece(id), "special": False, **FLAGS} for id in own
    ]
    (folder / "tokenizer.model").unlink()
    return document, library


@pytest.mark.parametrize("special", [False, True])
def test_user_defined_pieces_are_read_from_text(tmp_path, special):
    document, library = with_own_pieces(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    tokenizer = load_tokenizer(tmp_path, {}, "hf")
    for text in ["a llamaword b", "xllamawordy", "<tool>", "x<tool>y", " llamaword llama word"]:
        ids = tokenizer.encode(text, bos=False, special=special)
        assert ids == library.encode(text)
        assert tokenizer.decode(ids) == library.decode(ids) == text


def test_user_defined_pieces_are_left_to_the_library_with_the_rest(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    document, _ = with_own_pieces(tmp_path)
    document["model"]["merges"] = document["model"]["merges"][::2]
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path, {}, "hf")
    for text in ["a llamaword b", "x<tool>y", "llama word"]:
        assert tokenizer.encode(text, bos=False) == library.encode(text).ids


def test_begin_and_end_are_control_tokens_whatever_the_file_says(tmp_path, tiny_tokenizer_file):
    document = converted(tiny_tokenizer_file)
    for token in document["added_tokens"]:
        token["special"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    tokenizer = load_tokenizer(tmp_path, {}, "hf")
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    assert not {1, 2} & set(tokenizer.encode("a<s>b</s>", bos=False))


def without_bytes(model_file) -> dict:
    """A vocabulary in which characters can be unknown."""
    document = converted(model_file)
    vocab = document["model"]["vocab"]
    document["model"]["vocab"] = {text: id for text, id in vocab.items() if text[:3] != "<0x"}
    return document


@pytest.mark.parametrize("fuse", [True, False, None])
def test_unknown_characters_are_joined_as_the_file_says(tmp_path, tiny_tokenizer_file, fuse):
    tokenizers = pytest.importorskip("tokenizers")
    document = without_bytes(tiny_tokenizer_file)
    document["model"]["fuse_unk"] = fuse
    if fuse is None:
        del document["model"]["fuse_unk"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path, {}, "hf")
    for text in ["a\u0416\u0429b", "\u0429", "the \u0416\u0429 \u0416"]:
        ids = tokenizer.encode(text, bos=False)
        assert 0 in ids
        assert ids == library.encode(text).ids


@pytest.mark.parametrize("make", [converted, without_bytes])
@pytest.mark.parametrize(
    "config",
    [{}, {"unk_token": "<unk>"}, {"unk_token": {"content": "<unk>"}}, {"unk_token": "</s>"}],
)
def test_the_unknown_token_may_be_named_elsewhere(tmp_path, tiny_tokenizer_file, make, config):
    document = make(tiny_tokenizer_file)
    document["model"]["unk_token"] = None  # as transformers 5 writes it
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    library = sentencepiece.SentencePieceProcessor(model_file=str(tiny_tokenizer_file))
    tokenizer = load_tokenizer(tmp_path, {}, "hf")
    assert tokenizer.eos_id == 2
    surface = parse_model(library.serialized_model_proto()).unk_surface
    assert tokenizer.decode([0]).replace(" ⁇ ", surface) == library.decode([0])
    if make is without_bytes:
        assert tokenizer.encode("a\u0416\u0429b", bos=False).count(0) == 1


def test_the_unknown_token_may_have_another_name(tmp_path, tiny_tokenizer_file):
    document = json.loads(json.dumps(converted(tiny_tokenizer_file)).replace("<unk>", "[UNK]"))
    document["model"]["unk_token"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    (tmp_path / "special_tokens_map.json").write_text('{"unk_token": "[UNK]"}')
    assert load_tokenizer(tmp_path, {}, "hf").decode([0]) == " ⁇ "


@pytest.mark.parametrize("whole", [True, False])
def test_the_library_reads_no_control_tokens_from_text(tmp_path, tiny_tokenizer_file, whole):
    tokenizers = pytest.importorskip("tokenizers")
    document = {**converted(tiny_tokenizer_file), "normalizer": None}
    model = document["model"]
    for text in ["<", "/", "s", ">", "</", "s>", "<s"]:
        model["vocab"].setdefault(text, len(model["vocab"]))
    model["merges"] += [["<", "/"], ["s", ">"], ["</", "s>"], ["<", "s>"]]
    model["ignore_merges"] = whole
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    bare = tokenizers.Tokenizer.from_str(json.dumps({**document, "added_tokens": []}))
    tokenizer = load_tokenizer(tmp_path, {}, "hf")
    for text, id in [("<s>", 1), ("</s>", 2)]:
        assert bare.encode(text).ids == [id]
        assert id not in tokenizer.encode(text, bos=False)
        assert tokenizer.encode(text, bos=False, special=True) == [id]
        assert tokenizer.decode(tokenizer.encode(text)) == text


MARK = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
META = {"type": "Metaspace", "replacement": "▁"}


def steps(*normalizers) -> dict:
    return {"normalizer": {"type": "Sequence", "normalizers": list(normalizers)}}


@pytest.mark.parametrize(
    "change",
    [
        steps({"type": "Prepend", "prepend": "x"}, MARK),
        steps({"type": "Replace", "pattern": {"String": "h"}, "content": "t"}, MARK),
        steps({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}, MARK),
        steps({"type": "Prepend", "prepend": "▁"}, {"type": "Prepend", "prepend": "▁"}, MARK),
        steps({"type": "Prepend", "prepend": "▁"}, {"type": "Lowercase"}, MARK),
        steps({"type": "NFKC"}, MARK),
        {"normalizer": None},
        {"normalizer": MARK, "pre_tokenizer": {**META, "split": True}},
        {"normalizer": None, "pre_tokenizer": META},
        {"normalizer": None, "pre_tokenizer": {**META, "add_prefix_space": True}},
        {
            **steps(MARK),
            "pre_tokenizer": {
                "type": "Split",
                "pattern": {"String": "▁"},
                "behavior": "MergedWithNext",
                "invert": False,
            },
        },
    ],
    ids=json.dumps,
)
def test_other_steps_are_left_to_the_library(tmp_path, tiny_tokenizer_file, change):
    tokenizers = pytest.importorskip("tokenizers")
    document = {**converted(tiny_tokenizer_file), **change}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path, {}, "hf")
    for text in ["Hello the  time", "the", "a   b ", " x\n  y", "ﬁne", "▁hat"]:
        assert tokenizer.encode(text, bos=False) == library.encode(text).ids


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": None, "pre_tokenizer": {**META, "prepend_scheme": "first", "split": False}},
        {"normalizer": None, "pre_tokenizer": {**META, "split": False}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": []}},
    ],
    ids=json.dumps,
)
def test_sentencepiece_steps_need_no_other_library(
    tmp_path, tiny_tokenizer_file, monkeypatch, change
):
    tokenizers = pytest.importorskip("tokenizers")
    document = {**converted(tiny_tokenizer_file), **change}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    tokenizer = load_tokenizer(tmp_path, {}, "hf")
    # Metaspace adds no second space, which sentencepiece does.
    for text in ["Hello the  time", " the", "  the", "a   b ", "▁the"]:
        assert tokenizer.encode(text, bos=False) == library.encode(text).ids


@pytest.mark.parametrize("kind", ["Unheard", 5, None, ["x"]])
def test_unknown_steps_are_refused(tmp_path, tiny_tokenizer_file, kind):
    pytest.importorskip("tokenizers")
    document = {**converted(tiny_tokenizer_file), "normalizer": {"type": kind}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path, {}, "hf")


UNMARK = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
BYTES = {"type": "ByteFallback"}


@pytest.mark.parametrize(
    "decoder", [None, BYTES, {"type": "Metaspace", "replacement": "▁"}, [UNMARK, BYTES]]
)
def test_decoders_like_sentencepiece(tmp_path, tiny_tokenizer_file, decoder):
    if isinstance(decoder, list):
        decoder = {"type": "Sequence", "decoders": decoder}
    document = {**converted(tiny_tokenizer_file), "decoder": decoder}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    tokenizer = load_tokenizer(tmp_path, {}, "hf")
    assert tokenizer.decode(tokenizer.encode("Hello the 日")) == "Hello the 日"


@pytest.mark.parametrize(
    "step",
    [
        {"type": "WordPiece", "prefix": "##", "cleanup": True},
        {**UNMARK, "content": "_"},
        {"type": "Metaspace", "replacement": "_"},
        {"type": []},
        "Fuse",
    ],
    ids=json.dumps,
)
def test_other_decoders_are_refused(tmp_path, tiny_tokenizer_file, step):
    decoder = {"type": "Sequence", "decoders": [UNMARK, step]}
    document = {**converted(tiny_tokenizer_file), "decoder": decoder}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: decoder: step"):
        load_tokenizer(tmp_path, {}, "hf")


WRONG = [None, 0, -1, 1.5, "x", "", [], {}, True, [None], {"type": 5}, 10**30, ["a", "b"]]


def places(value, path=(), depth=0):
    """Paths to the values within a JSON document, few levels deep."""
    if path:
        yield path
    if depth < 4 and isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in itertools.islice(items, 20):
            yield from places(item, (*path, key), depth + 1)


def changed(document, rng):
    """A copy with one value replaced or taken away."""
    document = json.loads(json.dumps(document))
    *way, last = rng.choice(list(places(document)))
    inner = document
    for key in way:
        inner = inner[key]
    if rng.random() < 0.2:
        del inner[last]
    else:
        inner[last] = rng.choice(WRONG)
    return document


def test_wrong_documents_are_refused_or_read(tmp_path, tiny_tokenizer_file, bpe_folder):
    rng = random.Random(3)
    documents = [
        converted(tiny_tokenizer_file),
        json.loads((bpe_folder / "tokenizer.json").read_text()),
    ]
    refused = 0
    for _ in range(120):
        document = changed(rng.choice(documents), rng)
        (tmp_path / "tokenizer.json").write_text(json.dumps(document))
        try:
            tokenizer = load_tokenizer(tmp_path, {}, "hf")
            tokenizer.decode(tokenizer.encode("Hello <s> 日本", special=True))
        except TokenizerError:
            refused += 1
    assert 10 < refused < 120
