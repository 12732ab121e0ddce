"""A tokenizer's own rules, from every kind of file, against `tokenizers` and transformers."""

from __future__ import annotations

import json
import random

import pytest

from llama_rt.tokenizer import load_tokenizer
from llama_rt.tokenizer.special import AddedToken, SpecialTokens, end_texts
from tokenizer.conftest import gguf_metadata

BEGIN, END = "<|im_start|>", "<|im_end|>"
TRAINING = [
    "Hello 12345 world, don't stop.",
    "def f(x):\n    return x + 1\n\n\n",
    "user system",
] * 4
TEXT = "def f(x):\n    return 12345\n\n\n  'don't'"


def byte_level(steps, *, frame="$A"):
    """A byte-level BPE trained here; `frame` is its post-processor's template."""
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.Sequence(steps)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<|endoftext|>", BEGIN, END],
        show_progress=False,
    )
    library.train_from_iterator(TRAINING, trainer)
    if frame != "$A":
        ids = [(text, library.token_to_id(text)) for text in (BEGIN, END)]
        library.post_processor = processors.TemplateProcessing(single=frame, special_tokens=ids)
    return library


def smollm_steps():
    p = pytest.importorskip("tokenizers.pre_tokenizers")
    return [p.Digits(individual_digits=True), p.ByteLevel(add_prefix_space=False)]


def gguf_keys(library, pre, **more) -> dict:
    model = json.loads(library.to_str())["model"]
    rows = sorted(library.get_vocab().items(), key=lambda row: row[1])
    specials = ("<|endoftext|>", BEGIN, END)
    keys = {
        "model": "gpt2",
        "pre": pre,
        "tokens": [text for text, _ in rows],
        "token_type": [3 if text in specials else 1 for text, _ in rows],
        "merges": [m if isinstance(m, str) else " ".join(m) for m in model["merges"]],
        "bos_token_id": 1,
        "eos_token_id": 2,
        **more,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items() if value is not None}


def test_gguf_files_of_other_splits_need_no_extra(monkeypatch):
    library = byte_level(smollm_steps())
    wanted = library.encode(TEXT).ids
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    tokenizer = load_tokenizer("m.gguf", gguf_keys(library, "smollm"), "gguf")
    assert tokenizer.encode(TEXT, bos=False) == wanted
    assert tokenizer.settings.pre_tokenizer == "smollm"


def test_a_gguf_file_without_a_split_gets_gpt2s_and_says_so(caplog):
    library = byte_level(smollm_steps()[1:])
    for pre in (None, "default"):
        tokenizer = load_tokenizer("unnamed.gguf", gguf_keys(library, pre), "gguf")
        assert tokenizer.encode(TEXT, bos=False) == library.encode(TEXT).ids
        assert tokenizer.settings.pre_tokenizer == "default"
        assert len(tokenizer.settings.notes) == (pre is None)
    assert ["tokenizer.ggml.pre is missing" in record.message for record in caplog.records] == [
        True
    ]


@pytest.mark.parametrize(
    ("pre", "keys", "add_bos", "add_eos"),
    [
        ("smollm", {}, False, False),  # llama.cpp's defaults by the split's name
        ("llama-bpe", {}, True, False),
        ("tekken", {}, True, False),
        ("llama-bpe", {"add_bos_token": False}, False, False),
        ("smollm", {"add_bos_token": True, "add_eos_token": True}, True, True),
    ],
)
def test_gguf_says_what_frames_a_text(pre, keys, add_bos, add_eos):
    library = byte_level(smollm_steps())
    tokenizer = load_tokenizer("m.gguf", gguf_keys(library, pre, **keys), "gguf")
    plain = tokenizer.encode("user", bos=False, eos=False)
    assert (tokenizer.settings.add_bos, tokenizer.settings.add_eos) == (add_bos, add_eos)
    assert tokenizer.encode("user") == [1] * add_bos + plain + [2] * add_eos
    assert tokenizer.encode("user", bos=True, eos=True) == [1, *plain, 2]


def test_sentencepiece_in_gguf_begins_with_bos_unless_told(tiny_tokenizer_file):
    for keys, frame in (
        ({}, (1,)),
        ({"add_bos_token": False}, ()),
        ({"add_eos_token": True}, (1, 2)),
    ):
        metadata = gguf_metadata(tiny_tokenizer_file, **keys)
        tokenizer = load_tokenizer("m.gguf", metadata, "gguf")
        assert tokenizer.encode("") == list(frame)


@pytest.mark.parametrize("frame", ["$A", f"{BEGIN} $A", f"{BEGIN} $A {END}"])
@pytest.mark.parametrize("flags", [{}, {"add_bos_token": True}, {"add_bos_token": False}], ids=str)
@pytest.mark.parametrize("kind", ["GPT2Tokenizer", "PreTrainedTokenizerFast", None])
def test_folders_are_framed_as_transformers_frames_them(tmp_path, frame, flags, kind):
    transformers = pytest.importorskip("transformers")
    library = byte_level(smollm_steps(), frame=frame)
    library.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    config = {"bos_token": BEGIN, "eos_token": END, "tokenizer_class": kind, **flags}
    if kind is None:
        del config["tokenizer_class"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = load_tokenizer(tmp_path, {}, "hf")
    assert ours.encode("Hello user") == theirs.encode("Hello user")


def test_transformers_class_for_llama_has_flags_of_its_own(tmp_path):
    library = byte_level(smollm_steps())
    library.save(str(tmp_path / "tokenizer.json"))
    for flags, frame in (
        ({}, [1]),
        ({"add_bos_token": False}, []),
        ({"add_bos_token": False, "add_eos_token": True}, [2]),
    ):
        config = {"bos_token": BEGIN, "eos_token": END, "tokenizer_class": "LlamaTokenizerFast"}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, **flags}))
        assert load_tokenizer(tmp_path, {}, "hf").encode("") == frame


def test_a_folder_of_tokenizer_model_obeys_its_config(tmp_path, tiny_tokenizer_file):
    (tmp_path / "tokenizer.model").write_bytes(tiny_tokenizer_file.read_bytes())
    for flags, frame, scheme in (
        ({}, [1], "always"),
        ({"legacy": False}, [1], "first"),
        ({"add_bos_token": False, "add_eos_token": True, "legacy": True}, [2], "always"),
    ):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(flags))
        tokenizer = load_tokenizer(tmp_path, {}, "hf")
        assert tokenizer.encode("") == frame
        assert tokenizer.settings.prefix_space == scheme


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
def test_spaces_after_control_tokens_are_those_of_the_library(tmp_path, scheme):
    """`first` is what transformers writes for `legacy: false`: one space, at the very start."""
    library = metaspace(scheme)
    library.save(str(tmp_path / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tmp_path, {}, "hf")
    assert tokenizer.settings.prefix_space == scheme
    rng = random.Random(3)
    for _ in range(200):
        words = ["[INST]", "</s>", " ", "  ", "the", "llama", " walks", "▁", "\n"]
        parts = rng.choices(words, k=rng.randrange(8))
        wanted = library.encode("".join(parts), add_special_tokens=False).ids
        assert tokenizer.encode("".join(parts), bos=False, special=True) == wanted
        named = [tokenizer.special_ids.get(part, part) for part in parts]
        assert tokenizer.encode_parts(named) == wanted


def metaspace(scheme):
    """A sentencepiece-like BPE of `tokenizers` with two control tokens more."""
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers import AddedToken as Added
    from tokenizers import decoders, models, pre_tokenizers

    words = ["▁the", "▁llama", "▁walks", "the", "llama", "walks"]
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocab |= {f"<0x{byte:02X}>": len(vocab) + byte for byte in range(256)}
    pieces = ["▁", *sorted(set("".join(words)) - {"▁"})]
    merges = []
    for word in words:
        for end in range(2, len(word) + 1):
            pieces.append(word[:end])
    for piece in dict.fromkeys(pieces):
        vocab[piece] = len(vocab)
    for piece in vocab:
        cuts = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        merges += [cut for cut in cuts if cut[0] in vocab and cut[1] in vocab]
    model = models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    library = tokenizers.Tokenizer(model)
    library.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme=scheme, split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    library.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    names = ("<unk>", "<s>", "</s>", "[INST]")
    library.add_special_tokens([Added(text, normalized=False) for text in names])
    return library


def test_added_tokens_strip_and_stand_as_in_the_library(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    library = byte_level(smollm_steps())
    library.normalizer = tokenizers.normalizers.NFC()
    library.add_special_tokens(
        [
            tokenizers.AddedToken("<left>", lstrip=True, normalized=False),
            tokenizers.AddedToken("<right>", rstrip=True, normalized=False),
            tokenizers.AddedToken("<alone>", single_word=True, normalized=False),
        ]
    )
    library.add_tokens([tokenizers.AddedToken("caf\u00e9", normalized=True)])
    library.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path, {}, "hf")
    assert tokenizer.settings.normalization == "NFC"
    words = ["<left>", "<right>", "<alone>", " ", "\n ", "user", "e\u0301", "cafe\u0301", END]
    words += ["caf\u00e9", "\u0338", "x"]
    rng = random.Random(4)
    for _ in range(400):
        text = "".join(rng.choices(words, k=rng.randrange(9)))
        wanted = library.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text, bos=False, special=True) == wanted


def test_control_pieces_of_a_vocabulary_strip_as_in_the_library(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    library = metaspace("first")
    library.add_special_tokens([tokenizers.AddedToken("</s>", rstrip=True, normalized=False)])
    library.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path, {}, "hf")
    for text in ("the</s> llama", "the</s>\n llama </s>", "</s>  the"):
        wanted = library.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text, bos=False, special=True) == wanted


def test_tokens_of_phi_3_take_the_space_after_them(tiny_tokenizer_file):
    rows = [("<|user|>", -1000.0, 3), ("<|end|>", -1000.0, 3)]
    metadata = gguf_metadata(tiny_tokenizer_file, extra=rows)
    text = "<|user|>\nthe<|end|>\nthe"
    bare = load_tokenizer("m.gguf", metadata, "gguf")
    named = load_tokenizer("m.gguf", metadata | {"general.name": "Phi-3 mini"}, "gguf")
    stripped = text.replace("\n", "")
    assert named.encode(text, special=True) == bare.encode(stripped, special=True)
    assert bare.encode(text, special=True) != bare.encode(stripped, special=True)


def test_parts_give_white_space_to_the_tokens_that_take_it():
    special = SpecialTokens(
        {1: AddedToken("<l>", True, lstrip=True), 2: AddedToken("<r>", True, rstrip=True)}
    )
    assert special.strip_around(["a ", 1, " b", " c ", 2, " d"]) == ["a", 1, " b c ", 2, "d"]
    assert special.strip_around([" ", 1]) == [1]
    assert special.strip_around([2, " ", "x"]) == [2, "x"]


@pytest.mark.parametrize(
    "text",
    ["<|end|>", "<end_of_utterance>", "[EOT]", "_<EOT>", "<|im_end|>", "<|eot_id|>", "<eos>"],
)
@pytest.mark.parametrize("kind", [1, 3, 4])
def test_texts_that_end_a_generation_do_so_whatever_their_type(tiny_tokenizer_file, text, kind):
    metadata = gguf_metadata(tiny_tokenizer_file, extra=[(text, -1000.0, kind)])
    tokenizer = load_tokenizer("m.gguf", metadata, "gguf")
    row = tokenizer.vocab_size - 1
    assert row in tokenizer.stop_ids
    assert tokenizer.encode(f"Hi{text}", special=True)[-1] == row
    assert row not in tokenizer.encode(f"Hi{text}")
    assert tokenizer.decode([row]) == ""
    assert [text in note for note in tokenizer.settings.notes] == [True] * (kind != 3)


def test_a_part_of_an_answer_ends_no_answer():
    assert end_texts({"<|end|>", "</s>", "x"}) == {"<|end|>", "</s>"}
    assert "<|end|>" not in end_texts({"<|end|>", "<|return|>", "<|call|>"})
    assert "</s>" not in end_texts({"</s>", "<|tool_response>"})


def test_ends_are_the_union_of_what_files_say(tmp_path):
    library = byte_level(smollm_steps())
    library.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": END}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 5]}))
    tokenizer = load_tokenizer(tmp_path, {"eos_token_id": 0}, "hf")
    assert tokenizer.eos_id == 2
    assert tokenizer.stop_ids == {0, 2}  # 5 is a letter: files of 2023 name wrong ids
