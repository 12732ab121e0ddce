"""Deltas as Vicuna, Alpaca and Koala published them, added to bases in every layout."""

import shutil
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from llama_rt import Llama
from llama_rt.checkpoint import open_checkpoint
from llama_rt.checkpoint.delta import Checksum, add_delta, open_delta
from llama_rt.errors import CheckpointError
from reference.checkpoints import hf_name, to_halves, write_gguf, write_hf, write_meta
from reference.model import Config, forward, random_weights, relative_error

IDS = [1, 17, 300, 45, 45, 8, 501, 77, 123, 9]
CONFIG = Config()
BASE = random_weights(CONFIG, seed=11)
TUNED = {
    name: (value + 0.05 * np.random.default_rng(i).standard_normal(value.shape))
    .astype(np.float16)
    .astype(np.float32)
    for i, (name, value) in enumerate(BASE.items())
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return {
        "hf": write_hf(folder / "hf", CONFIG, BASE, dtype="float16"),
        "meta": write_meta(folder / "meta", CONFIG, BASE, shards=2),
        "gguf": write_gguf(folder / "base.gguf", CONFIG, BASE, dtype="f16"),
    }


def save_delta(folder, tokenizer, *, dtype=torch.float16, pad=None, buffers=True):
    """`tuned - base` as make_delta.py and weight_diff.py save it; `pad` starts the added row."""
    write_hf(folder, CONFIG, TUNED, tokenizer=tokenizer)
    base = {hf_name(n): torch.from_numpy(v) for n, v in to_halves(CONFIG, BASE).items()}
    state = load_file(folder / "model.safetensors")
    rng = torch.Generator().manual_seed(3)
    delta, tuned_pad = {}, {}
    for name, value in state.items():
        difference = (value.to(dtype) - base[name].to(dtype)).to(dtype)
        if pad is not None and value.ndim == 2 and name in ("model.embed_tokens.weight",
                                                            "lm_head.weight"):  # fmt: skip
            row = torch.randn(1, value.shape[1], generator=rng).to(dtype)
            start = base[name].mean(0, keepdim=True) if pad == "mean" else 0 * row
            tuned_pad[name] = (row + start.to(dtype)).float().numpy()
            difference = torch.cat([difference, row])
        delta[name] = difference.contiguous()
    if buffers:  # transformers of 2023 stored them; their difference is zero
        for layer in range(CONFIG.n_layers):
            delta[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.zeros(8)
    save_file(delta, folder / "model.safetensors")
    if pad is not None:
        text = (folder / "config.json").read_text()
        (folder / "config.json").write_text(text.replace('"vocab_size": 512', '"vocab_size": 513'))
    return tuned_pad


@pytest.mark.parametrize("layout", ["hf", "meta", "gguf"])
def test_vicuna_v1_1(tmp_path, bases, tiny_tokenizer_file, layout):
    """Half precision, the same vocabulary; the tokenizer is the delta's."""
    save_delta(tmp_path / "delta", tiny_tokenizer_file)
    expected = forward(CONFIG, TUNED, IDS)
    with Llama.load(tmp_path / "delta", base=bases[layout], threads=1) as llm:
        assert relative_error(llm.logits(IDS), expected) < 2e-3
        assert llm.tokenizer.vocab_size == 512
        assert llm.config.rope_style == "halves"


@pytest.mark.parametrize("layout", ["hf", "meta"])
@pytest.mark.parametrize(
    ("dtype", "pad"),
    [(torch.float16, "zero"), (torch.float32, "mean")],
    ids=["vicuna-v0", "alpaca"],
)
def test_a_pad_token_in_the_delta(tmp_path, bases, tiny_tokenizer_file, layout, dtype, pad):
    """513 rows on 512: zero in half precision (Vicuna v0), the mean in float32 (Alpaca)."""
    rows = save_delta(tmp_path / "delta", tiny_tokenizer_file, dtype=dtype, pad=pad)
    tuned = dict(TUNED)
    for name, value in rows.items():
        ours = "tok_embeddings.weight" if "embed" in name else "output.weight"
        tuned[ours] = np.concatenate([TUNED[ours], value])
    expected = forward(CONFIG, tuned, [*IDS, 512])
    with Llama.load(tmp_path / "delta", base=bases[layout], threads=1) as llm:
        assert llm.config.vocab_size == 513
        assert relative_error(llm.logits([*IDS, 512]), expected) < 2e-3
        assert 512 in llm.tokenizer.unsampled_ids or llm.tokenizer.vocab_size <= 512
        sampled = llm.generate(IDS, temperature=5.0, max_tokens=40, seed=1).tokens
        assert 512 not in sampled


def test_sums_are_rounded_once(tmp_path, bases, tiny_tokenizer_file):
    """Float32 sums to the bit, half-precision ones to the nearest half."""
    for dtype, stored in ((torch.float32, "<f4"), (torch.float16, "<f2")):
        folder = tmp_path / stored[1:]
        save_delta(folder, tiny_tokenizer_file, dtype=dtype)
        both = open_delta(folder, open_checkpoint(bases["meta"]))
        raw = load_file(folder / "model.safetensors")
        for name, record in both.tensors.items():
            base = to_halves(CONFIG, BASE)[name].astype(np.float32)
            expected = (raw[hf_name(name)].float().numpy() + base).astype(stored)
            got = record.read().view(stored).reshape(record.shape)
            assert np.array_equal(got, expected), name


def test_converting_a_delta(tmp_path, bases, tiny_tokenizer_file, capsys):
    from llama_rt.cli import main

    save_delta(tmp_path / "delta", tiny_tokenizer_file)
    expected = forward(CONFIG, TUNED, IDS)
    for target in ("x.gguf", "folder"):
        words = ["convert", tmp_path / "delta", tmp_path / target, "--base", bases["meta"]]
        assert main([str(word) for word in (*words, "--format", "f16")]) == 0
        with Llama.load(tmp_path / target, threads=1) as llm:
            assert relative_error(llm.logits(IDS), expected) < 2e-3
            assert llm.tokenizer.vocab_size == 512
    capsys.readouterr()


def other(tmp_path, **changes):
    config = Config(**changes)
    return write_hf(tmp_path / "other", config, random_weights(config))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dim": 96, "head_dim": 24}, r"dim 64.* 96"),
        ({"n_layers": 3}, r"n_layers 2.* 3"),
        ({"n_kv_heads": 4}, r"n_kv_heads 2.* 4"),
        ({"n_heads": 8, "n_kv_heads": 4, "head_dim": 8}, r"n_heads 4.* 8"),
        ({"ffn_dim": 128}, r"ffn_dim 96.* 128"),
        ({"vocab_size": 510}, r"\[512, 64\].*\[510, 64\]"),
        ({"vocab_size": 513}, r"\[512, 64\].*\[513, 64\]"),
        ({"tied": True}, None),
        ({"attention_bias": True}, "the delta has not"),
    ],
)
def test_wrong_bases_are_refused_with_both_sizes(tmp_path, tiny_tokenizer_file, changes, said):
    save_delta(tmp_path / "delta", tiny_tokenizer_file)
    base = other(tmp_path, **changes)
    if said is None:  # a tied base has its output in its embedding
        assert "output.weight" in open_delta(tmp_path / "delta", open_checkpoint(base)).tensors
        return
    with pytest.raises(CheckpointError, match=said):
        Llama.load(tmp_path / "delta", base=base)


def test_a_quantized_base_is_refused(tmp_path, tiny_gguf_q8_0_file, tiny_tokenizer_file):
    save_delta(tmp_path / "delta", tiny_tokenizer_file)
    with pytest.raises(CheckpointError, match="q8_0"):
        Llama.load(tmp_path / "delta", base=tiny_gguf_q8_0_file)


def test_numbers_that_do_not_fit_are_named(tmp_path, bases, tiny_tokenizer_file):
    save_delta(tmp_path / "delta", tiny_tokenizer_file)
    path = tmp_path / "delta" / "model.safetensors"
    state = load_file(path)
    state["model.layers.1.mlp.up_proj.weight"][3, 5] = float("inf")
    save_file(state, path)
    with pytest.raises(CheckpointError, match=r"layers\.1\.feed_forward\.w3.*inf"):
        Llama.load(tmp_path / "delta", base=bases["hf"])


def test_the_checksum_speaks_once_and_only_when_it_differs(tmp_path, bases, tiny_tokenizer_file):
    from llama_rt.checkpoint import delta as module

    save_delta(tmp_path / "delta", tiny_tokenizer_file, dtype=torch.float32)
    exact = sum(float(value.astype(np.float64).sum()) for value in TUNED.values())
    base, delta = open_checkpoint(bases["meta"]), open_checkpoint(tmp_path / "delta")
    for expected, times in ((exact, 0), (exact + 3, 1)):
        said = []
        checksum = Checksum(expected, 0.5, set(delta.tensors), said.append)
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(module, "_alpaca_checksum", lambda _, c=checksum: c)
            both = add_delta(delta, base)
        for record in (*both.tensors.values(), *both.tensors.values()):
            record.read()
        assert len(said) == times
    assert f"{exact + 3:.4f}" in said[0]


def test_shared_case(shared_golden):
    case = shared_golden / "delta-f32"
    base = shared_golden / (case / "BASE").read_text().strip()
    with np.load(case / "expected.npz") as expected:
        ids, logits = expected["ids"], expected["logits"]
    with Llama.load(case, base=base, progress=False) as llm:
        assert relative_error(llm.logits(ids.tolist()), logits) <= 2e-3


# --- Koala ---


def packed(value):
    """MessagePack of what EasyLM writes: texts, numbers, bytes, lists, maps, extensions."""
    if value is True:
        return b"\xc3"
    if isinstance(value, str):
        return (
            bytes([0xA0 | len(value)]) + value.encode()
            if len(value) < 32
            else (b"\xd9" + bytes([len(value)]) + value.encode())
        )
    if isinstance(value, int):
        return bytes([value]) if value < 128 else b"\xce" + struct.pack(">I", value)
    if isinstance(value, bytes):
        return b"\xc6" + struct.pack(">I", len(value)) + value
    if isinstance(value, (list, tuple)):
        return bytes([0x90 | len(value)]) + b"".join(map(packed, value))
    if isinstance(value, dict):
        pairs = b"".join(packed(k) + packed(v) for k, v in value.items())
        return bytes([0x80 | len(value)]) + pairs
    return b"\xc9" + struct.pack(">Ib", len(value.payload), 1) + value.payload


class Array:
    """flax's extension for an array."""

    def __init__(self, value, dtype):
        raw = torch.from_numpy(np.ascontiguousarray(value)).to(getattr(torch, dtype))
        data = raw.contiguous().view(torch.uint8).numpy().tobytes()
        self.payload = packed([list(value.shape), dtype, data])


def koala_key(name):
    outer = {"tok_embeddings.weight": ["transformer", "wte", "embedding"],
             "norm.weight": ["transformer", "ln_f", "kernel"],
             "output.weight": ["lm_head", "kernel"]}  # fmt: skip
    return outer.get(name) or ["transformer", "h", *name.split(".")[1:-1], "kernel"]


def save_koala(path, difference, *, dtype="bfloat16", prefix=(), chunked=()):
    parts = []
    for name, value in difference.items():
        stored = value.T if value.ndim == 2 and name != "tok_embeddings.weight" else value
        if name in chunked:
            flat = np.ascontiguousarray(stored).reshape(-1)
            pieces = np.array_split(flat, 3)
            content = packed({
                "__msgpack_chunked_array__": True,
                "shape": {str(i): n for i, n in enumerate(stored.shape)},
                "chunks": {str(i): Array(piece, dtype) for i, piece in enumerate(pieces)},
            })  # fmt: skip
        else:
            content = packed(Array(stored, dtype))
        parts.append(packed([[*prefix, *koala_key(name)], content]))
    path.write_bytes(b"".join(parts))


DIFFERENCE = {name: TUNED[name] - BASE[name] for name in BASE}


def koala_expected():
    """Both to float32, add, one rounding to bf16; Koala's rotary order is Meta's."""
    stored = {
        name: torch.from_numpy(value).bfloat16().float().numpy()
        for name, value in DIFFERENCE.items()
    }
    return {
        name: torch.from_numpy(BASE[name] + stored[name]).bfloat16().float().numpy()
        for name in BASE
    }


@pytest.mark.parametrize("layout", ["meta", "hf", "gguf"])
def test_koala(tmp_path, bases, layout):
    chunked = ("layers.0.feed_forward.w1.weight", "tok_embeddings.weight")
    save_koala(tmp_path / "koala", DIFFERENCE, prefix=("params", "params"), chunked=chunked)
    weights = koala_expected()
    both = open_delta(tmp_path / "koala", open_checkpoint(bases[layout]))
    assert {record.dtype for record in both.tensors.values()} == {"bf16"}
    for name, record in both.tensors.items():
        values = record.read().view("<u2").astype("<u4") << 16
        assert np.array_equal(values.view("<f4").reshape(record.shape), weights[name]), name
    with Llama.load(tmp_path / "koala", base=bases[layout], threads=1) as llm:
        assert relative_error(llm.logits(IDS), forward(CONFIG, weights, IDS)) < 1.5e-2


def test_koala_has_the_tokenizer_of_its_base(tmp_path, bases, tiny_tokenizer_file):
    save_koala(tmp_path / "koala", DIFFERENCE, dtype="float32")
    shutil.copytree(bases["meta"], tmp_path / "base")
    shutil.copyfile(tiny_tokenizer_file, tmp_path / "base" / "tokenizer.model")
    with Llama.load(tmp_path / "koala", base=tmp_path / "base", threads=1) as llm:
        assert llm.tokenizer.vocab_size == 512
        assert relative_error(llm.logits(IDS), forward(CONFIG, TUNED, IDS)) < 2e-3


def test_koala_of_another_size(tmp_path, tiny_hf_folder):
    config = Config(dim=96, head_dim=24)
    save_koala(tmp_path / "koala", random_weights(config))
    with pytest.raises(CheckpointError, match=r"wte/embedding.*\[512, 96\].*\[512, 64\]"):
        Llama.load(tmp_path / "koala", base=tiny_hf_folder)


def test_streams_cut_anywhere_or_changed_are_refused(tmp_path, bases):
    """No prefix and no changed byte of the headers gives anything but an answer or an error."""
    small = {name: DIFFERENCE[name] for name in ("norm.weight", "layers.0.attention_norm.weight")}
    save_koala(tmp_path / "koala", small)
    whole = (tmp_path / "koala").read_bytes()
    base = open_checkpoint(bases["meta"])
    rng = np.random.default_rng(0)
    damaged = [whole[:end] for end in range(3, len(whole), 7)]
    for _ in range(200):
        changed = bytearray(whole)
        changed[rng.integers(len(whole))] = rng.integers(256)
        damaged.append(bytes(changed))
    for i, data in enumerate(damaged):
        path = tmp_path / f"damaged{i}"
        path.write_bytes(data)
        with pytest.raises((CheckpointError, ValueError)):
            open_delta(path, base)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([["transformer", "h", "0", "attention", "wz", "kernel"], b""], "wz"),
        ([["transformer", "ln_f", "kernel"], packed(5)], "no array"),
        ([["transformer", "ln_f", "kernel"], b"\xdd\xff\xff\xff\xff"], "4294967295 items"),
        ([["transformer", "ln_f", "kernel"], b"\x91" * 30], "deep"),
        ([["transformer", "ln_f", "kernel"], b"\xdc\x04\x01" + bytes(1025)], "of 1025 items"),
        ([["transformer", "ln_f", "kernel"], packed({"chunks": 1})], "chunked"),
    ],
)
def test_contents_that_are_no_koala(tmp_path, bases, parts, said):
    (tmp_path / "koala").write_bytes(packed(parts))
    with pytest.raises(CheckpointError, match=said):
        open_delta(tmp_path / "koala", open_checkpoint(bases["meta"]))
