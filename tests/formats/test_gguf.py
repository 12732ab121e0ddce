"""GGUF files written by the gguf package (value kinds, types, splits), and damaged ones."""

import struct
from dataclasses import replace

import gguf
import numpy as np
import pytest

from formats.stored import assert_same, values
from llama_rt.checkpoint import open_checkpoint
from llama_rt.errors import CheckpointError, ConfigError
from llama_rt.formats.gguf import read_gguf
from reference.checkpoints import gguf_name, write_gguf
from reference.model import Config, Rope, random_weights

CONFIG = Config()
WIDE = Config(dim=256, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=128, ffn_dim=512)
BLOCK_BYTES = {"q4_0": 18, "q4_1": 20, "q5_0": 22, "q5_1": 24, "q8_0": 34, "q2_k": 84,
               "q3_k": 110, "q4_k": 144, "q5_k": 176, "q6_k": 210}  # fmt: skip


@pytest.fixture(scope="module")
def weights():
    return random_weights(CONFIG, seed=7)


@pytest.fixture
def file(tmp_path, weights):
    return write_gguf(tmp_path / "m.gguf", CONFIG, weights)


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_plain_types(tmp_path, weights, dtype):
    kind = gguf.GGMLQuantizationType[dtype.upper()]

    def rounded(value):
        if value.ndim == 1:
            return value
        return gguf.quants.dequantize(gguf.quants.quantize(value, kind), kind)

    path = write_gguf(tmp_path / "m.gguf", CONFIG, weights, dtype=dtype)
    checkpoint = open_checkpoint(path)
    assert checkpoint.kind == "gguf"
    assert checkpoint.config.rope_style == "interleaved"
    assert_same(checkpoint, weights, rounded=rounded)


@pytest.mark.parametrize("dtype", BLOCK_BYTES)
def test_block_types_byte_for_byte(tmp_path, dtype):
    rng = np.random.default_rng(0)
    weights = random_weights(WIDE, seed=1)
    per_block = 256 if dtype.endswith("_k") else 32
    blocks = {
        name: (dtype, rng.integers(
            0, 256, (value.shape[0], value.shape[1] // per_block * BLOCK_BYTES[dtype]), np.uint8
        ))
        for name, value in weights.items() if value.ndim == 2
    }  # fmt: skip
    tensors = open_checkpoint(write_gguf(tmp_path / "m.gguf", WIDE, weights, blocks=blocks)).tensors
    for name, (_, data) in blocks.items():
        assert tensors[name].dtype == dtype
        assert tensors[name].shape == weights[name].shape
        assert np.array_equal(tensors[name].read(), data.reshape(-1))
    assert tensors["norm.weight"].dtype == "f32"


def test_configuration(tmp_path):
    config = replace(CONFIG, rope_theta=5e5, attention_bias=True, tied=True, norm_eps=1e-6)
    path = write_gguf(tmp_path / "m.gguf", config, random_weights(config, seed=1))
    read = open_checkpoint(path).config
    for name in ("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "ffn_dim", "vocab_size",
                 "rope_theta", "max_context", "attention_bias", "mlp_bias"):  # fmt: skip
        assert getattr(read, name) == getattr(config, name), name
    assert read.norm_eps == pytest.approx(1e-6)
    assert read.tie_embeddings


def test_linear_and_yarn_scaling(tmp_path):
    linear = replace(CONFIG, rope=Rope("linear", 4.0))
    path = write_gguf(tmp_path / "a.gguf", linear, random_weights(linear, seed=1))
    assert open_checkpoint(path).config.rope_scaling.kind == "linear"
    assert open_checkpoint(path).config.rope_scaling.factor == 4
    yarn = replace(CONFIG, rope=Rope("yarn", 4.0, original_context=64))
    path = write_gguf(tmp_path / "b.gguf", yarn, random_weights(yarn, seed=1))
    rope = open_checkpoint(path).config.rope_scaling
    assert (rope.kind, rope.factor, rope.original_context) == ("yarn", 4, 64)
    assert rope.attention_factor == pytest.approx(0.1 * np.log(4) + 1)


def test_rotary_divisors_become_a_tensor(tmp_path, weights):
    divisors = np.linspace(1, 8, 8, dtype=np.float32)
    path = write_gguf(tmp_path / "m.gguf", CONFIG, weights | {"rope.divisors": divisors})
    checkpoint = open_checkpoint(path)
    assert np.array_equal(values(checkpoint.tensors["rope.divisors"]), divisors)
    assert next(iter(checkpoint.tensors)) == "rope.divisors"


def fused(weights):
    """Canonical weights with q, k and v of each layer stacked, as newer converters write them."""
    out = {}
    for name, value in weights.items():
        if name.endswith("attention.wq.weight"):
            parts = [weights[name.replace("wq", kind)] for kind in ("wq", "wk", "wv")]
            out[name] = np.concatenate(parts)
        elif not name.endswith(("attention.wk.weight", "attention.wv.weight")):
            out[name] = value
    return out


@pytest.mark.parametrize("dtype", ["f32", "q8_0"])
def test_fused_projection_is_split_without_a_copy(tmp_path, weights, monkeypatch, dtype):
    def fused_name(name):
        return gguf_name(name).replace("attn_q.", "attn_qkv.")

    monkeypatch.setattr("reference.checkpoints.gguf_name", fused_name)
    path = write_gguf(tmp_path / "m.gguf", CONFIG, fused(weights), dtype=dtype)
    tensors = open_checkpoint(path).tensors
    for kind in ("wq", "wk", "wv"):
        name = f"layers.1.attention.{kind}.weight"
        expected = weights[name]
        if dtype == "q8_0":
            q8 = gguf.GGMLQuantizationType.Q8_0
            expected = gguf.quants.dequantize(gguf.quants.quantize(expected, q8), q8)
        assert np.array_equal(values(tensors[name]), expected)
        assert not tensors[name].read().flags.owndata


def write_keys(path, add):
    writer = gguf.GGUFWriter(path, "llama")
    add(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_every_kind_of_value(tmp_path):
    def add(writer):
        writer.add_uint8("u8", 255)
        writer.add_int8("i8", -128)
        writer.add_uint16("u16", 65535)
        writer.add_int16("i16", -32768)
        writer.add_uint32("u32", 2**32 - 1)
        writer.add_int32("i32", -(2**31))
        writer.add_uint64("u64", 2**64 - 1)
        writer.add_int64("i64", -(2**63))
        writer.add_float32("f32", 0.5)
        writer.add_float64("f64", 0.1)
        writer.add_bool("yes", True)
        writer.add_bool("no", False)
        writer.add_string("s", "é ▁\n")
        writer.add_array("ints", [1, -2, 3])
        writer.add_array("floats", [0.5, -1.5])
        writer.add_array("flags", [True, False])
        writer.add_array("texts", ["a", "", "ü"])

    read = read_gguf(write_keys(tmp_path / "k.gguf", add)).metadata
    assert read == {
        "general.architecture": "llama", "u8": 255, "i8": -128, "u16": 65535, "i16": -32768,
        "u32": 2**32 - 1, "i32": -(2**31), "u64": 2**64 - 1, "i64": -(2**63), "f32": 0.5,
        "f64": 0.1, "yes": True, "no": False, "s": "é ▁\n", "ints": [1, -2, 3],
        "floats": [0.5, -1.5], "flags": [True, False], "texts": ["a", "", "ü"],
    }  # fmt: skip
    assert read["yes"] is True
    assert read["flags"][0] is True


@pytest.mark.parametrize("alignment", [8, 32, 64, 4096])
def test_alignment(tmp_path, alignment):
    def add(writer):
        writer.add_custom_alignment(alignment)
        for i in range(3):
            writer.add_tensor(f"t{i}", np.full(5 + i, i, np.float32))

    tensors = read_gguf(write_keys(tmp_path / "k.gguf", add)).tensors
    for i in range(3):
        assert np.array_equal(values(tensors[f"t{i}"]), np.full(5 + i, i, np.float32))


def test_version_2(tmp_path, file, weights):
    raw = bytearray(file.read_bytes())
    raw[4:8] = struct.pack("<I", 2)
    (tmp_path / "v2.gguf").write_bytes(raw)
    assert len(open_checkpoint(tmp_path / "v2.gguf").tensors) == len(weights)


# --- split files ---


def split(path, weights, limit=4):
    """A model in parts, as llama.cpp splits it."""
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=limit)
    writer.add_context_length(CONFIG.max_context)
    writer.add_embedding_length(CONFIG.dim)
    writer.add_block_count(CONFIG.n_layers)
    writer.add_feed_forward_length(CONFIG.ffn_dim)
    writer.add_head_count(CONFIG.n_heads)
    writer.add_head_count_kv(CONFIG.n_kv_heads)
    writer.add_layer_norm_rms_eps(CONFIG.norm_eps)
    for name, value in weights.items():
        writer.add_tensor(gguf_name(name), value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(path.parent.glob("*-of-*.gguf"))


def test_split_file_opens_from_any_part(tmp_path, weights):
    parts = split(tmp_path / "m.gguf", weights)
    assert len(parts) == 6
    for part in (parts[0], parts[3]):
        checkpoint = open_checkpoint(part)
        assert_same(checkpoint, weights)
        assert checkpoint.files == tuple(parts)
    assert_same(open_checkpoint(tmp_path), weights)


def test_missing_part(tmp_path, weights):
    parts = split(tmp_path / "m.gguf", weights)
    parts[2].unlink()
    with pytest.raises(CheckpointError, match=rf"part '{parts[2].name}' is missing"):
        open_checkpoint(parts[0])


def test_part_in_the_place_of_another(tmp_path, weights):
    parts = split(tmp_path / "m.gguf", weights)
    parts[2].write_bytes(parts[3].read_bytes())
    with pytest.raises(CheckpointError, match=r"expected \(2, 6\)"):
        open_checkpoint(parts[0])


def test_renamed_part(tmp_path, weights):
    parts = split(tmp_path / "m.gguf", weights)
    lone = parts[0].rename(tmp_path / "lone.gguf")
    with pytest.raises(CheckpointError, match="one of 6 parts"):
        open_checkpoint(lone)


# --- damaged files ---


def tiny(
    *, magic=b"GGUF", version=3, n_tensors=1, n_keys=0, keys=b"", name=b"t", dims=(32,), kind=0,
    offset=0, data=bytes(128), axes=None,
):  # fmt: skip
    """A GGUF file byte by byte, so that any field may lie."""
    head = magic + struct.pack("<IQQ", version, n_tensors, n_keys) + keys
    head += struct.pack("<Q", len(name)) + name
    head += struct.pack("<I", len(dims) if axes is None else axes)
    head += struct.pack(f"<{len(dims)}q", *dims) + struct.pack("<IQ", kind, offset)
    return head + bytes(-len(head) % 32) + data


def string(text):
    return struct.pack("<Q", len(text)) + text


def key(name, kind, value):
    return string(name) + struct.pack("<I", kind) + value


def test_the_byte_by_byte_file_is_sound(tmp_path):
    (tmp_path / "x.gguf").write_bytes(tiny())
    assert read_gguf(tmp_path / "x.gguf").tensors["t"].shape == (32,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"magic": b"GGUX"}, "not a GGUF file"),
        ({"version": 1}, "version 1; supported: 2 and 3"),
        ({"version": 4}, "version 4"),
        ({"version": 3 << 24}, "big-endian"),
        ({"n_tensors": 2**63}, "number of tensors is 9223372036854775808"),
        ({"n_tensors": 2}, "bytes"),
        ({"n_keys": 2**40}, "number of keys"),
        ({"name": b""}, "name '' is empty"),
        ({"name": b"x" * 64}, "64 bytes and longer"),
        ({"axes": 5}, "5 axes"),
        ({"dims": (-1,)}, "negative size"),
        ({"dims": (2**40, 2**40)}, "needs"),
        ({"dims": (33,), "kind": 8}, "rows of 33 elements, not a multiple of its block of 32"),
        ({"kind": 40}, "type nvfp4; supported: f32, f16, bf16, q4_0"),
        ({"kind": 99}, "type number 99"),
        ({"offset": 32}, "at data offset 32, expected 0"),
        ({"offset": 2**64 - 32}, "expected 0"),
        ({"data": bytes(127)}, "'t' needs 128 bytes at offset 64, but 127 of them"),
        ({"data": b""}, "but 0 of them are in the file"),
        ({"n_keys": 1, "keys": key(b"", 4, bytes(4))}, "key '' is empty"),
        ({"n_keys": 2, "keys": key(b"k", 4, bytes(4)) * 2}, "twice"),
        ({"n_keys": 1, "keys": key(b"k", 13, bytes(4))}, "unknown value type 13"),
        ({"n_keys": 1, "keys": key(b"k", 8, struct.pack("<Q", 2**62))}, "length of key 'k'"),
        ({"n_keys": 1, "keys": key(b"k", 9, struct.pack("<IQ", 4, 2**60))}, "length of key 'k'"),
        ({"n_keys": 1, "keys": key(b"k", 9, struct.pack("<IQ", 9, 1))}, "nested"),
        ({"n_keys": 1, "keys": key(b"general.alignment", 4, struct.pack("<I", 24))}, "power of"),
        ({"n_keys": 1, "keys": key(b"general.alignment", 4, bytes(4))}, "power of two"),
        ({"n_keys": 1, "keys": key(b"general.alignment", 8, string(b"x"))}, "power of two"),
        ({"n_keys": 1, "keys": key(b"split.count", 8, string(b"x"))}, "split.count"),
    ],
)  # fmt: skip
def test_fields_that_lie(tmp_path, options, message):
    path = tmp_path / "x.gguf"
    path.write_bytes(tiny(**options))
    with pytest.raises(CheckpointError, match=message) as caught:
        read_gguf(path)
    assert str(path) in str(caught.value)


def test_duplicate_tensor(tmp_path):
    raw = tiny(n_tensors=2)
    info = struct.pack("<Q", 1) + b"t" + struct.pack("<IqIQ", 1, 32, 0, 128)
    head = raw[:24] + raw[24:57] + info
    (tmp_path / "x.gguf").write_bytes(head + bytes(-len(head) % 32) + bytes(256))
    with pytest.raises(CheckpointError, match="'t' occurs twice"):
        read_gguf(tmp_path / "x.gguf")


def change_key(path, name, replacement):
    """Replaces a key by another of the same length in the bytes."""
    raw = path.read_bytes()
    assert len(name) == len(replacement)
    assert raw.count(name) >= 1
    path.write_bytes(raw.replace(name, replacement, 1))


def test_unknown_architecture(file):
    change_key(file, b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0qwen2")
    with pytest.raises(ConfigError, match=r"general\.architecture.*'qwen2'; supported: 'llama'"):
        open_checkpoint(file)


def test_missing_key_is_named(file):
    change_key(file, b"llama.embedding_length", b"llama.embedding_xxxxxx")
    with pytest.raises(ConfigError, match=r"llama\.embedding_length.*missing"):
        open_checkpoint(file)


def test_tensor_of_another_name(file):
    change_key(file, b"blk.1.ffn_gate.weight", b"blk.1.ffn_xxxx.weight")
    with pytest.raises(CheckpointError, match=r"blk\.1\.ffn_xxxx\.weight' has no place"):
        open_checkpoint(file)


def test_wrong_shape_names_the_expected_one(tmp_path, weights):
    wrong = weights | {"layers.0.attention.wo.weight": np.zeros((64, 32), np.float32)}
    path = write_gguf(tmp_path / "m.gguf", CONFIG, wrong)
    with pytest.raises(
        CheckpointError, match=r"blk\.0\.attn_output\.weight.*\[64, 32\], expected \[64, 64\]"
    ):
        open_checkpoint(path)


def test_missing_tensor_is_named(tmp_path, weights):
    less = {n: v for n, v in weights.items() if n != "layers.1.ffn_norm.weight"}
    path = write_gguf(tmp_path / "m.gguf", CONFIG, less)
    with pytest.raises(CheckpointError, match=r"missing tensors: blk\.1\.ffn_norm\.weight"):
        open_checkpoint(path)


def test_adapter_is_called_by_name(tmp_path):
    def add(writer):
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_tensor("blk.0.attn_q.weight.lora_a", np.ones((4, 64), np.float32))

    with pytest.raises(CheckpointError, match="adapter"):
        open_checkpoint(write_keys(tmp_path / "a.gguf", add))
