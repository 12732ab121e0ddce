"""Conversions: exact where the formats allow, within the format's step elsewhere, and atomic."""

import base64
import errno
import json
from contextlib import suppress
from dataclasses import replace

import gguf
import numpy as np
import pytest
import sentencepiece
import torch

from formats.stored import assert_same, values
from llama_rt.benchmark.synthetic import synthetic_checkpoint
from llama_rt.checkpoint import open_checkpoint
from llama_rt.config import ModelConfig
from llama_rt.convert.conversion import GGUF_FORMATS, convert, write_gguf
from llama_rt.convert.recipes import main_type, matrix_type
from llama_rt.errors import CheckpointError, ConfigError
from reference.checkpoints import (
    gguf_name,
    hf_logits,
    to_halves,
    write_hf,
    write_meta,
)
from reference.checkpoints import (
    write_gguf as package_gguf,
)
from reference.model import Config, Rope, forward, inverse_frequencies, random_weights
from reference.vocabulary import train_tokenizer

CONFIG = Config()
SMALL = ModelConfig(
    dim=64, n_layers=1, n_heads=2, n_kv_heads=2, head_dim=32, ffn_dim=96, vocab_size=100,
    norm_eps=1e-5,
)  # fmt: skip
VARIANTS = {
    "plain": CONFIG,
    "wide heads": replace(CONFIG, n_heads=4, head_dim=32),
    "tied": replace(CONFIG, tied=True),
    "biases": replace(CONFIG, attention_bias=True, mlp_bias=True),
    "linear": replace(CONFIG, rope=Rope("linear", 4.0)),
    "llama3": replace(CONFIG, rope=Rope("llama3", 8.0, original_context=64), rope_theta=5e5),
    "yarn": replace(CONFIG, rope=Rope("yarn", 4.0, original_context=64, attention_factor=1.25)),
    "own yarn": replace(
        CONFIG, rope=Rope("yarn", 4.0, original_context=64, beta_fast=16.0, attention_factor=1.1)
    ),
    "odd": Config(dim=50, n_heads=5, n_kv_heads=5, head_dim=10, ffn_dim=33, vocab_size=77),
}


# Bits of a weight in each layer: embedding and output, then q, k, v, o, gate, down, up.
MIXES = {
    "q2_k_m": "26 22222222 22222222 33333333 33333333 22222222 33333333 22222222",
    "q3_k_s": "36 33333333 33333333 33333333 33333333 33333333 33333333 33333333",
    "q3_k_m": "36 33333333 33333333 55444444 44444444 33333333 44444444 33333333",
    "q3_k_l": "36 33333333 33333333 55555555 55555555 33333333 55555555 33333333",
    "q4_k_s": "46 44444444 44444444 55554444 44444444 44444444 54444444 44444444",
    "q4_k_m": "46 44444444 44444444 64464466 44444444 44444444 64464466 44444444",
    "q5_k_s": "56 55555555 55555555 55555555 55555555 55555555 55555555 55555555",
    "q5_k_m": "56 55555555 55555555 65565566 55555555 55555555 65565566 55555555",
}
FILE_TYPES = {
    "q2_k_m": 10, "q3_k_s": 11, "q3_k_m": 12, "q3_k_l": 13, "q4_k_s": 14, "q4_k_m": 15,
    "q5_k_s": 16, "q5_k_m": 17,
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def source(folder, config, kind):
    weights = random_weights(config, seed=11)
    if kind == "hf":
        return write_hf(folder / "hf", config, weights), weights
    if kind == "meta":
        return write_meta(folder / "meta", config, weights, shards=2, dtype="float32"), weights
    return package_gguf(folder / "m.gguf", config, weights, dtype="f32"), weights


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
def test_hf_to_gguf_is_exact_in_f32(tmp_path, config):
    folder, weights = source(tmp_path, config, "hf")
    done = convert(folder, tmp_path / "out.gguf", "f32")
    checkpoint = open_checkpoint(done.path)
    found = dict(checkpoint.tensors)
    found.pop("rope.divisors", None)
    checkpoint.tensors = found
    assert_same(checkpoint, weights)  # interleaved again: the rows of q and k went back
    before, after = open_checkpoint(folder).config, checkpoint.config
    same = (
        *("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "ffn_dim", "vocab_size"),
        *("rope_theta", "max_context", "tie_embeddings", "attention_bias", "mlp_bias"),
    )
    assert {n: getattr(before, n) for n in same} == {n: getattr(after, n) for n in same}
    assert after.norm_eps == np.float32(before.norm_eps)


@pytest.mark.parametrize("name", ["linear", "llama3", "yarn", "own yarn"])
def test_rope_rules_survive(tmp_path, name):
    """The frequencies and the factor on cos and sin, computed from what the new file says."""
    config = VARIANTS[name]
    folder, _ = source(tmp_path, config, "hf")
    checkpoint = open_checkpoint(convert(folder, tmp_path / "out.gguf", "f32").path)
    found = checkpoint.config.rope_scaling
    assert found.attention_factor == pytest.approx(config.rope.attention_factor, rel=1e-6)
    if name in ("linear", "yarn"):
        assert (found.kind, found.factor) == (name, config.rope.factor)
        assert "rope.divisors" not in checkpoint.tensors
        return
    assert found.kind == "none"
    plain = inverse_frequencies(replace(config, rope=Rope()))
    divisors = values(checkpoint.tensors["rope.divisors"])
    assert np.allclose(plain / divisors, inverse_frequencies(config), rtol=1e-6)


@pytest.mark.parametrize("kind", ["hf", "meta", "gguf"])
@pytest.mark.parametrize("format", [f for f in GGUF_FORMATS if f == main_type(f)])
def test_the_gguf_package_decodes_what_we_decode(tmp_path, kind, format):
    """And both are near the weights; what the package can encode is no nearer."""
    config = replace(CONFIG, dim=256, head_dim=16, n_heads=16, n_kv_heads=4, ffn_dim=512)
    path, weights = source(tmp_path, config, kind)
    done = convert(path, tmp_path / "out.gguf", format)
    found = open_checkpoint(done.path).tensors
    package = {tensor.name: tensor for tensor in gguf.GGUFReader(done.path).tensors}
    target = gguf.GGMLQuantizationType[format.upper()]
    for name, value in weights.items():
        record = found[name]
        if value.ndim == 1:
            assert record.dtype == "f32"
            assert np.array_equal(values(record), value)
            continue
        assert record.dtype == format
        ours = values(record)
        stored = package[gguf_name(name)]
        theirs = gguf.quants.dequantize(stored.data, stored.tensor_type).reshape(value.shape)
        assert np.allclose(ours, theirs, rtol=1e-6, atol=1e-9)
        error = np.linalg.norm(ours - value)
        assert error <= 0.35 * np.linalg.norm(value)
        with suppress(NotImplementedError):
            plain = gguf.quants.dequantize(gguf.quants.quantize(value, target), target)
            assert error <= np.linalg.norm(plain - value) * 1.001


@pytest.mark.parametrize("format", [f for f in GGUF_FORMATS if f != main_type(f)])
def test_recipes_are_tensor_by_tensor_those_of_llama_cpp(tmp_path, format):
    """Types in files that `llama_model_quantize` of llama-cpp-python 0.3.36 made of this shape."""
    config = replace(CONFIG, dim=256, head_dim=64, n_heads=4, n_kv_heads=4, ffn_dim=512,
                     n_layers=8, max_context=64)  # fmt: skip
    path, _ = source(tmp_path, config, "gguf")
    done = convert(path, tmp_path / "out.gguf", format)
    tensors = open_checkpoint(done.path).tensors
    kinds = {"q2_k": "2", "q3_k": "3", "q4_k": "4", "q5_k": "5", "q6_k": "6"}

    def types(part):
        return "".join(kinds[tensors[f"layers.{i}.{part}.weight"].dtype] for i in range(8))

    whole = (kinds[tensors[n].dtype] for n in ("tok_embeddings.weight", "output.weight"))
    roles = ("wq", "wk", "wv", "wo")
    found = ["".join(whole), *(types(f"attention.{role}") for role in roles)]
    found += [types(f"feed_forward.{role}") for role in ("w1", "w2", "w3")]
    assert " ".join(found) == MIXES[format]
    assert open_checkpoint(done.path).metadata["general.file_type"] == FILE_TYPES[format]
    assert done.nbytes == sum(tensor.nbytes for tensor in tensors.values())


def test_shared_values_get_more_bits_in_the_smallest_recipe():
    config = replace(SMALL, dim=256, n_heads=8, head_dim=32)
    for groups, expected in ((8, "q3_k"), (2, "q4_k")):
        shared = replace(config, n_kv_heads=groups)
        assert matrix_type("layers.0.attention.wv.weight", 256, "q2_k_m", shared) == expected


@pytest.mark.parametrize(
    ("format", "type"),
    [("q2_k", "q4_0"), ("q3_k", "q4_0"), ("q4_k", "q5_0"), ("q5_k", "q5_1"), ("q6_k", "q8_0")],
)
def test_rows_of_smaller_blocks_take_what_llama_cpp_takes(tmp_path, format, type):
    path, weights = source(tmp_path, CONFIG, "hf")
    done = convert(path, tmp_path / "out.gguf", format)
    tensors = open_checkpoint(done.path).tensors
    assert {tensors[name].dtype for name, w in weights.items() if w.ndim == 2} == {type}
    assert any(type in note for note in done.notes)


def test_the_gguf_package_reads_what_was_written(tmp_path):
    path, weights = source(tmp_path, CONFIG, "hf")
    convert(path, tmp_path / "out.gguf", "q8_0")
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    assert reader.get_field("general.architecture").contents() == "llama"
    assert reader.get_field("general.file_type").contents() == 7
    assert reader.get_field("llama.block_count").contents() == 2
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert set(tensors) == {gguf_name(name) for name in weights}
    for name, value in weights.items():
        tensor = tensors[gguf_name(name)]
        assert tuple(reversed(tensor.shape.tolist())) == value.shape
        stored = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert np.allclose(stored.reshape(value.shape), value, atol=np.abs(value).max() / 100)


def test_rows_that_are_no_whole_blocks_become_f16_and_are_reported(tmp_path):
    path, weights = source(tmp_path, VARIANTS["odd"], "hf")
    done = convert(path, tmp_path / "out.gguf", "q8_0")
    tensors = open_checkpoint(done.path).tensors
    matrices = [name for name, value in weights.items() if value.ndim == 2]
    assert {tensors[name].dtype for name in matrices} == {"f16"}
    assert any(f"{len(matrices)} matrices" in note and "f16" in note for note in done.notes)


def test_quantized_source_is_requantized_or_copied(tmp_path):
    weights = random_weights(CONFIG, seed=11)
    path = package_gguf(tmp_path / "q.gguf", CONFIG, weights, dtype="q8_0")
    same = open_checkpoint(convert(path, tmp_path / "same.gguf", "q8_0").path).tensors
    other = open_checkpoint(convert(path, tmp_path / "other.gguf", "f32").path).tensors
    for name, record in open_checkpoint(path).tensors.items():
        assert np.array_equal(same[name].read(), record.read())
        assert np.array_equal(values(other[name]), values(record))


def test_gguf_keys_are_copied_with_their_types(tmp_path, tokenizer):
    weights = random_weights(CONFIG, seed=11)
    path = package_gguf(tmp_path / "a.gguf", CONFIG, weights, dtype="f16", tokenizer=tokenizer)
    convert(path, tmp_path / "b.gguf", "q4_0")
    old, new = gguf.GGUFReader(path), gguf.GGUFReader(tmp_path / "b.gguf")
    for key, field in old.fields.items():
        if key.startswith("GGUF.") or key == "general.file_type":
            continue
        assert new.fields[key].types == field.types, key
        assert new.fields[key].contents() == field.contents(), key
    assert new.get_field("general.file_type").contents() == 2


def test_split_source(tmp_path):
    from formats.test_gguf import split

    weights = random_weights(CONFIG, seed=7)
    (tmp_path / "parts").mkdir()
    parts = split(tmp_path / "parts" / "m.gguf", weights)
    done = convert(parts[0], tmp_path / "whole.gguf", "f32")
    assert_same(open_checkpoint(done.path), weights)
    assert "split.count" not in open_checkpoint(done.path).metadata


# --- vocabularies ---


def test_sentencepiece_vocabulary(tmp_path, tokenizer):
    folder = write_hf(tmp_path / "hf", CONFIG, random_weights(CONFIG, seed=1), tokenizer=tokenizer)
    convert(folder, tmp_path / "out.gguf", "f16")
    keys = open_checkpoint(tmp_path / "out.gguf").metadata
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
    count = pieces.vocab_size()
    assert keys["tokenizer.ggml.model"] == "llama"
    assert keys["tokenizer.ggml.tokens"] == [pieces.id_to_piece(i) for i in range(count)]
    assert keys["tokenizer.ggml.scores"] == [pieces.get_score(i) for i in range(count)]
    kinds = keys["tokenizer.ggml.token_type"]
    assert kinds[:3] == [2, 3, 3]
    assert set(kinds[3:259]) == {6}
    assert set(kinds[259:]) == {1}
    for name, id in (("bos", 1), ("eos", 2), ("unknown", 0)):
        assert keys[f"tokenizer.ggml.{name}_token_id"] == id
    assert keys["tokenizer.ggml.add_bos_token"] is True
    assert keys["tokenizer.ggml.add_eos_token"] is False
    assert "tokenizer.ggml.padding_token_id" not in keys


def test_added_and_padding_rows(tmp_path, tokenizer):
    config = replace(CONFIG, vocab_size=516)
    folder = write_hf(tmp_path / "hf", config, random_weights(config, seed=1), tokenizer=tokenizer)
    (folder / "added_tokens.json").write_text(json.dumps({"[PAD]": 512, "<extra>": 513}))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["pad_token"] = "[PAD]"
    settings["chat_template"] = "{{ messages }}"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    convert(folder, tmp_path / "out.gguf", "f16")
    keys = open_checkpoint(tmp_path / "out.gguf").metadata
    assert keys["tokenizer.ggml.tokens"][512:] == ["[PAD]", "<extra>", "[PAD514]", "[PAD515]"]
    assert keys["tokenizer.ggml.scores"][512:] == [-1000, -1000, -10000, -10000]
    assert keys["tokenizer.ggml.token_type"][512:] == [3, 4, 5, 5]
    assert keys["tokenizer.chat_template"] == "{{ messages }}"


def byte_level(folder, size):
    """A tokenizer.json of Llama 3's make, trained by the tokenizers library."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - 3, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    text = "the quick brown fox jumps over the lazy dog and the other dogs " * 20
    tokenizer.train_from_iterator([text], trainer)
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names])
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def test_byte_level_vocabulary(tmp_path):
    folder = write_hf(tmp_path / "hf", CONFIG, random_weights(CONFIG, seed=1))
    library = byte_level(folder, 320)
    convert(folder, tmp_path / "out.gguf", "f16")
    keys = open_checkpoint(tmp_path / "out.gguf").metadata
    assert keys["tokenizer.ggml.model"] == "gpt2"
    assert keys["tokenizer.ggml.pre"] == "gpt-2"  # the file's step is ByteLevel
    count = library.get_vocab_size()
    names = [library.id_to_token(i) for i in range(count)]
    assert keys["tokenizer.ggml.tokens"][:count] == names
    assert keys["tokenizer.ggml.tokens"][count:] == [f"[PAD{i}]" for i in range(count, 512)]
    bos = library.token_to_id("<|begin_of_text|>")
    assert keys["tokenizer.ggml.bos_token_id"] == bos
    assert keys["tokenizer.ggml.eot_token_id"] == library.token_to_id("<|eot_id|>")
    assert keys["tokenizer.ggml.token_type"][bos] == 3
    merges = json.loads((folder / "tokenizer.json").read_text())["model"]["merges"]
    joined = [m if isinstance(m, str) else " ".join(m) for m in merges]
    assert keys["tokenizer.ggml.merges"] == joined


def rank_file(path):
    """Meta's tokenizer.model of Llama 3: base64 bytes and rank; here 256 bytes and some words."""
    words = [b"th", b"he", b"the", b" the", b"in", b"ing", b" d", b"og", b" dog", b"\xc3\xa9"]
    tokens = [bytes([byte]) for byte in range(256)] + words
    lines = [f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(tokens)]
    path.write_text("\n".join(lines) + "\n")
    return len(tokens)


@pytest.mark.parametrize("scaled", [False, True])
def test_metas_rank_file(tmp_path, scaled):
    from llama_rt.tokenizer import load_tokenizer

    config = replace(CONFIG, vocab_size=266 + 256)
    folder = write_meta(tmp_path / "meta", config, random_weights(config, seed=1))
    count = rank_file(folder / "tokenizer.model")
    params = json.loads((folder / "params.json").read_text()) | {"use_scaled_rope": scaled}
    (folder / "params.json").write_text(json.dumps(params))
    old = open_checkpoint(folder)
    new = open_checkpoint(convert(folder, tmp_path / "out.gguf", "f16").path)
    keys = new.metadata
    assert keys["tokenizer.ggml.bos_token_id"] == count
    assert keys["tokenizer.ggml.eos_token_id"] == count + 1
    assert keys["tokenizer.ggml.eot_token_id"] == count + 9
    assert keys.get("tokenizer.ggml.eom_token_id") == (count + 8 if scaled else None)
    before = load_tokenizer(old.tokenizer_source, old.metadata, old.kind)
    after = load_tokenizer(new.tokenizer_source, new.metadata, new.kind)
    assert after.stop_ids == before.stop_ids
    for text in ("the dog sings the thing", "é 😀\n\n  x 1234", ""):
        assert after.encode(text) == before.encode(text)
        assert after.decode(after.encode(text)) == text


@pytest.mark.parametrize("kind", ["sentencepiece", "rewritten", "byte level"])
def test_the_new_file_speaks_the_same_ids(tmp_path, tokenizer, kind):
    from llama_rt.tokenizer import load_tokenizer

    folder = write_hf(tmp_path / "hf", CONFIG, random_weights(CONFIG, seed=1))
    if kind == "sentencepiece":
        (folder / "tokenizer.model").write_bytes(tokenizer.read_bytes())
    elif kind == "rewritten":
        rewritten(folder, tokenizer)
    else:
        byte_level(folder, 320)
    old = open_checkpoint(folder)
    new = open_checkpoint(convert(folder, tmp_path / "out.gguf", "f16").path)
    before = load_tokenizer(old.tokenizer_source, old.metadata, old.kind)
    after = load_tokenizer(new.tokenizer_source, new.metadata, new.kind)
    for text in ("the quick brown fox", " the  dog's\n\n 12", "naïve 😀", ""):
        assert after.encode(text) == before.encode(text)


def rewritten(folder, tokenizer):
    """The sentencepiece model as a tokenizer.json, without tokenizer.model."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
    vocab = {pieces.id_to_piece(i): i for i in range(pieces.vocab_size())}
    plain = {
        t for t, i in vocab.items() if not (pieces.is_control(i) or pieces.is_byte(i) or i == 0)
    }
    merges = [
        (text[:at], text[at:])
        for text in sorted(plain, key=lambda t: -pieces.get_score(vocab[t]))
        for at in range(1, len(text))
        if text[:at] in plain and text[at:] in plain
    ]
    library = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True))
    library.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    library.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    library.add_special_tokens([AddedToken(t, special=True) for t in ("<unk>", "<s>", "</s>")])
    library.save(str(folder / "tokenizer.json"))


def test_no_tokenizer_is_reported(tmp_path):
    path, _ = source(tmp_path, CONFIG, "hf")
    done = convert(path, tmp_path / "out.gguf", "f16")
    assert any("no tokenizer" in note for note in done.notes)


def test_tokenizer_with_more_tokens_than_rows(tmp_path, tokenizer):
    config = replace(CONFIG, vocab_size=500)
    folder = write_hf(tmp_path / "hf", config, random_weights(config, seed=1), tokenizer=tokenizer)
    with pytest.raises(CheckpointError, match="512 tokens, but the embedding has 500 rows"):
        convert(folder, tmp_path / "out.gguf", "f16")
    assert not (tmp_path / "out.gguf").exists()


# --- what a format cannot say ---


def test_sliding_window_cuts_the_context(tmp_path):
    config = replace(CONFIG, sliding_window=16)
    path, _ = source(tmp_path, config, "hf")
    done = convert(path, tmp_path / "out.gguf", "f16")
    assert open_checkpoint(done.path).config.max_context == 16
    assert any("16 tokens" in note for note in done.notes)


def test_max_context(tmp_path):
    path, _ = source(tmp_path, CONFIG, "hf")
    done = convert(path, tmp_path / "out.gguf", "f16", max_context=100)
    assert open_checkpoint(done.path).config.max_context == 100
    with pytest.raises(ConfigError, match="from 1 to 256"):
        convert(path, tmp_path / "other.gguf", "f16", max_context=257)


def test_numbers_beyond_f16_are_refused_by_name(tmp_path):
    weights = random_weights(CONFIG, seed=1)
    weights["layers.1.attention.wo.weight"][3, 4] = 70000
    path = package_gguf(tmp_path / "m.gguf", CONFIG, weights, dtype="f32")
    with pytest.raises(CheckpointError, match=r"wo\.weight.*70000.*bf16"):
        convert(path, tmp_path / "out.gguf", "f16")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["m.gguf"]
    assert convert(path, tmp_path / "out.gguf", "bf16").tensors == 21


@pytest.mark.parametrize("format", ["q4_k_x", "int8", "F16", "i8"])
def test_unknown_format_names_the_known(tmp_path, format):
    with pytest.raises(ConfigError, match=r"f32, f16, bf16, q4_0.*q6_k, .*q4_k_m"):
        convert(synthetic_checkpoint(SMALL, "f16"), tmp_path / "out.gguf", format)


def test_synthetic_model_is_saved_as_it_is(tmp_path):
    checkpoint = synthetic_checkpoint(SMALL, "q4_0", seed=4)
    write_gguf(checkpoint, tmp_path / "s.gguf")
    saved = open_checkpoint(tmp_path / "s.gguf").tensors
    for name, record in checkpoint.tensors.items():
        assert saved[name].dtype == record.dtype
        assert np.array_equal(saved[name].read(), record.read())


# --- to Hugging Face ---


@pytest.mark.parametrize("kind", ["hf", "meta", "gguf"])
@pytest.mark.parametrize("format", ["f32", "bf16"])
def test_to_a_hugging_face_folder(tmp_path, kind, format):
    def rounded(value):
        if format == "f32" or value.ndim == 1:
            return value
        return torch.from_numpy(value).bfloat16().float().numpy()

    path, weights = source(tmp_path, CONFIG, kind)
    done = convert(path, tmp_path / "new", format)
    assert_same(open_checkpoint(done.path), to_halves(CONFIG, weights), rounded=rounded)


@pytest.mark.parametrize("name", ["plain", "tied", "biases", "linear", "llama3", "own yarn"])
def test_transformers_runs_what_was_written(tmp_path, name):
    from transformers import AutoModelForCausalLM

    config = VARIANTS[name]
    path, weights = source(tmp_path, config, "meta" if name == "plain" else "hf")
    done = convert(path, tmp_path / "new", "f32")
    model = AutoModelForCausalLM.from_pretrained(done.path)
    ids = list(range(3, 40))
    expected = forward(config, weights, ids)
    assert np.allclose(hf_logits(model, ids), expected, atol=2e-5 * np.abs(expected).max())


def test_llama_3_rule_is_found_again_in_its_divisors(tmp_path):
    config = replace(CONFIG, rope=Rope("llama3", 32.0, original_context=8192), rope_theta=5e5,
                     head_dim=64, max_context=131072)  # fmt: skip
    folder, weights = source(tmp_path, config, "hf")
    middle = convert(folder, tmp_path / "m.gguf", "f32").path
    back = open_checkpoint(convert(middle, tmp_path / "back", "f32").path)
    rope = back.config.rope_scaling
    assert (rope.kind, rope.factor, rope.original_context) == ("llama3", 32, 8192)
    assert_same(back, to_halves(config, weights))


def test_divisors_without_a_rule_are_refused(tmp_path):
    weights = random_weights(CONFIG, seed=1)
    weights["rope.divisors"] = np.linspace(1, 3, 8, dtype=np.float32)
    path = package_gguf(tmp_path / "m.gguf", CONFIG, weights, dtype="f32")
    with pytest.raises(CheckpointError, match="divisors"):
        convert(path, tmp_path / "new", "f32")
    assert not (tmp_path / "new").exists()


def test_tokenizer_files_come_along(tmp_path, tokenizer):
    weights = random_weights(CONFIG, seed=1)
    folder = write_meta(tmp_path / "meta", CONFIG, weights, tokenizer=tokenizer)
    done = convert(folder, tmp_path / "new", "f16")
    assert (done.path / "tokenizer.model").read_bytes() == tokenizer.read_bytes()
    assert done.notes == ()


def test_gguf_vocabulary_becomes_a_sentencepiece_file(tmp_path, tokenizer):
    weights = random_weights(CONFIG, seed=1)
    path = package_gguf(tmp_path / "m.gguf", CONFIG, weights, dtype="f16", tokenizer=tokenizer)
    done = convert(path, tmp_path / "new", "f16")
    old = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
    new = sentencepiece.SentencePieceProcessor(model_file=str(done.path / "tokenizer.model"))
    for text in ("the quick brown fox", "  two spaces", "😀 é", "a\nb"):
        assert new.encode(text) == old.encode(text)


# --- files appear whole or not at all ---


def test_existing_target_is_kept_unless_asked(tmp_path):
    path, _ = source(tmp_path, CONFIG, "hf")
    target = tmp_path / "out.gguf"
    target.write_text("precious")
    with pytest.raises(CheckpointError, match="exists"):
        convert(path, target, "f16")
    assert target.read_text() == "precious"
    convert(path, target, "f16", overwrite=True)
    assert open_checkpoint(target).config.dim == 64
    (tmp_path / "new").mkdir()
    with pytest.raises(CheckpointError, match="exists"):
        convert(path, tmp_path / "new", "f16", overwrite=True)


def test_source_is_not_overwritten_by_itself(tmp_path):
    path, _ = source(tmp_path, CONFIG, "gguf")
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match="source itself"):
        convert(path, path, "f16", overwrite=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize("target", ["out.gguf", "folder"])
def test_full_disk(tmp_path, monkeypatch, target):
    path, _ = source(tmp_path, CONFIG, "hf")
    before = sorted(item.name for item in tmp_path.iterdir())

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("llama_rt.convert.output.os.fsync", full)
    with pytest.raises(CheckpointError, match=rf"{target}.*No space left on device"):
        convert(path, tmp_path / target, "f16")
    assert sorted(item.name for item in tmp_path.iterdir()) == before


def test_interruption_leaves_nothing(tmp_path, monkeypatch):
    path, _ = source(tmp_path, CONFIG, "hf")
    before = sorted(item.name for item in tmp_path.iterdir())

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("llama_rt.convert.output.os.fsync", interrupted)
    for target in ("out.gguf", "folder"):
        with pytest.raises(KeyboardInterrupt):
            convert(path, tmp_path / target, "f16")
    assert sorted(item.name for item in tmp_path.iterdir()) == before


def test_folder_that_is_not_there(tmp_path):
    path, _ = source(tmp_path, CONFIG, "hf")
    for target in ("out.gguf", "folder"):
        with pytest.raises(CheckpointError, match=f"the folder {tmp_path / 'no'} does not exist"):
            convert(path, tmp_path / "no" / target, "f16")


def test_lone_safetensors_target_is_refused(tmp_path):
    path, _ = source(tmp_path, CONFIG, "hf")
    with pytest.raises(ConfigError, match="folder"):
        convert(path, tmp_path / "x.safetensors", "f16")
