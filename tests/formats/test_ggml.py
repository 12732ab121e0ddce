"""Files from before GGUF, written here byte by byte as the programs of 2023 wrote them."""

import struct

import numpy as np
import pytest
import sentencepiece

from llama_rt import Llama, _native
from llama_rt.checkpoint import open_checkpoint
from llama_rt.errors import CheckpointError, LlamaRtError
from reference.model import Config, forward, random_weights, relative_error, tensor_shapes

IDS = [1, 17, 300, 45, 45, 8, 501, 77, 123, 9]
CONFIG = Config(n_kv_heads=4, norm_eps=1e-6)
CODES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8}
# magic, version; as the u32 that a program of the time compares with
GENERATIONS = {
    "ggml": (0x67676D6C, None), "ggmf": (0x67676D66, 1), "ggjt1": (0x67676A74, 1),
    "ggjt2": (0x67676A74, 2), "ggjt3": (0x67676A74, 3),
}  # fmt: skip


def nibbles(codes, adjacent):
    """`codes` `[blocks, 32]` of 0 to 15 as 16 bytes each."""
    if adjacent:
        low, high = codes[:, 0::2], codes[:, 1::2]
    else:
        low, high = codes[:, :16], codes[:, 16:]
    return (low | (high << 4)).astype(np.uint8)


def high_bits(codes):
    """Bit 4 of element e as bit e of a u32."""
    return ((codes >> 4).astype(np.uint32) << np.arange(32, dtype=np.uint32)).sum(
        axis=1, dtype=np.uint32
    )


def encode(shape, dtype, generation, rng, *, rows_first=None):
    """Random blocks: the bytes of the file and the values they mean, float64."""
    rows, width = shape
    blocks = rows * width // 32
    late, adjacent = generation == "ggjt3", generation in ("ggml", "ggmf", "ggjt1")
    scale = rng.uniform(0.5, 1.5, (blocks, 1)) / np.sqrt(width) / 8
    half = late or dtype in ("q5_0", "q5_1")
    bits = {"q4_0": 4, "q4_1": 4, "q5_0": 5, "q5_1": 5, "q8_0": 8}[dtype]
    scale *= 16 / (1 << bits)
    d = scale.astype("<f2" if half else "<f4")
    codes = rng.integers(0, 1 << bits, (blocks, 32))
    m = (-scale * (1 << (bits - 1)) * rng.uniform(0.9, 1.1, scale.shape)).astype(d.dtype)
    wide = d.astype(np.float64)
    if dtype == "q8_0":
        signed = codes.astype(np.int8)
        return np.hstack([d.view(np.uint8), signed.view(np.uint8)]).tobytes(), (
            wide * signed
        ).reshape(shape)
    has_minimum = dtype.endswith("_1")
    values = (
        wide * codes + m.astype(np.float64) if has_minimum else wide * (codes - (1 << bits - 1))
    )
    packed = nibbles(codes & 15, adjacent)
    parts = [d.view(np.uint8)] + [m.view(np.uint8)] * has_minimum
    if bits == 5:
        parts.append(high_bits(codes).astype("<u4")[:, None].view(np.uint8))
    if rows_first is None:
        rows_first = generation == "ggml" and dtype == "q4_1"
    if rows_first:  # gpt4all.cpp ggml.c: minima, steps, nibbles of the whole row
        per_row = [part.reshape(rows, -1) for part in reversed(parts)]
        data = np.hstack([*per_row, packed.reshape(rows, -1)]).tobytes()
    else:
        data = np.hstack([*parts, packed]).tobytes()
    return data, values.reshape(shape)


def vocabulary(file):
    """Pieces as convert-pth-to-ggml.py writes them, and their scores."""
    model = sentencepiece.SentencePieceProcessor(str(file))
    rows = []
    for id in range(model.vocab_size()):
        if model.is_unknown(id):
            text = " \u2047 ".encode()
        elif model.is_control(id):
            text = b""
        elif model.is_byte(id):
            text = bytes([int(model.id_to_piece(id)[3:-1], 16)])
        else:
            text = model.id_to_piece(id).replace("\u2581", " ").encode()
        rows.append((text, model.get_score(id)))
    return rows


class Writer:
    """One file of one generation; several parts hold slices of every matrix."""

    def __init__(self, config, tokenizer, generation, dtype, *, rows_first=None, seed=0):
        self.config, self.generation, self.dtype = config, generation, dtype
        self.pieces = vocabulary(tokenizer) if tokenizer else [(b"x", 0.0)] * config.vocab_size
        self.rows_first = rows_first
        self.rng = np.random.default_rng(seed)
        self.weights = random_weights(config, seed=9)
        self.stored_pieces = len(self.pieces)

    def header(self):
        magic, version = GENERATIONS[self.generation]
        config = self.config
        out = struct.pack("<I", magic) + (b"" if version is None else struct.pack("<I", version))
        out += struct.pack("<7i", config.vocab_size, config.dim, 32, config.n_heads,
                           config.n_layers, config.head_dim, CODES[self.dtype])  # fmt: skip
        for text, score in self.pieces:
            out += struct.pack("<I", len(text)) + text
            out += b"" if version is None else struct.pack("<f", score)
        return out

    def tensor(self, at, name, value, shard, shards):
        axis = {"tok_embeddings": 1, "wo": 1, "w2": 1}.get(name.split(".")[-2], 0)
        if value.ndim == 1:
            data, code, shape = value.astype("<f4").tobytes(), 0, value.shape
        else:
            part = np.split(value, shards, axis)[shard]
            shape = part.shape
            code = CODES[self.dtype]
            if self.dtype in ("f32", "f16"):
                data = part.astype("<f4" if self.dtype == "f32" else "<f2").tobytes()
            else:
                data, meant = encode(shape, self.dtype, self.generation, self.rng,
                                     rows_first=self.rows_first)  # fmt: skip
                where = [slice(None)] * 2
                where[axis] = slice(shard * shape[axis], (shard + 1) * shape[axis])
                self.weights[name] = self.weights[name].astype(np.float64)
                self.weights[name][tuple(where)] = meant
        encoded = name.encode()
        head = struct.pack("<3i", len(shape), len(encoded), code)
        head += struct.pack(f"<{len(shape)}i", *shape[::-1]) + encoded
        if self.generation.startswith("ggjt"):
            head += b"\0" * (-(at + len(head)) % 32)
        return head + data

    def write(self, path, shards=1):
        names = list(tensor_shapes(self.config))
        for shard in range(shards):
            out = bytearray(self.header())
            for name in names:
                out += self.tensor(len(out), name, self.weights[name], shard, shards)
            path.with_name(path.name + (f".{shard}" if shard else "")).write_bytes(out)
        return self.weights


def bound(dtype):
    return 2e-3 if dtype in ("f32", "f16") else 2.5e-2


CASES = [
    (generation, dtype)
    for generation in GENERATIONS
    for dtype in CODES
    if generation.startswith("ggjt") or dtype in ("f32", "f16", "q4_0", "q4_1")
]


@pytest.mark.parametrize(("generation", "dtype"), CASES)
def test_logits_of_every_generation(tmp_path, tiny_tokenizer_file, generation, dtype):
    path = tmp_path / "ggml-model.bin"
    weights = Writer(CONFIG, tiny_tokenizer_file, generation, dtype).write(path)
    with Llama.load(path, threads=1, n_ctx=64) as llm:
        assert llm.config.norm_eps == 1e-6
        assert llm.config.ffn_dim == CONFIG.ffn_dim
        assert relative_error(llm.logits(IDS), forward(CONFIG, weights, IDS)) < bound(dtype)


@pytest.mark.parametrize(("generation", "dtype"), CASES)
def test_weights_are_what_the_file_says(tmp_path, generation, dtype):
    """Codes exactly, scales to the nearest half."""
    path = tmp_path / "ggml-model.bin"
    weights = Writer(CONFIG, None, generation, dtype).write(path)
    for name, record in open_checkpoint(path).tensors.items():
        count = int(np.prod(record.shape))
        got = _native.decode(record.read(), record.dtype, count).reshape(record.shape)
        # Of `d n + m`, both d and m are rounded, and they nearly cancel.
        most = 2 * np.abs(weights[name]).max() if dtype.endswith("_1") else 0.0
        assert np.all(np.abs(got - weights[name]) <= 2.0**-11 * (np.abs(weights[name]) + most))


@pytest.mark.parametrize("dtype", ["q4_0", "q4_1"])
@pytest.mark.parametrize("rows_first", [True, False])
@pytest.mark.parametrize("generation", ["ggml", "ggmf"])
def test_scales_by_row_or_by_block_are_told_apart(tmp_path, generation, dtype, rows_first):
    path = tmp_path / "ggml-model.bin"
    weights = Writer(CONFIG, None, generation, dtype, rows_first=rows_first).write(path)
    with Llama.load(path, threads=1, n_ctx=64) as llm:
        assert relative_error(llm.logits(IDS), forward(CONFIG, weights, IDS)) < 2.5e-2


@pytest.mark.parametrize("generation", ["ggml", "ggmf"])
@pytest.mark.parametrize("dtype", ["f16", "q4_0", "q4_1"])
def test_models_in_parts(tmp_path, tiny_tokenizer_file, generation, dtype):
    path = tmp_path / "ggml-model-f16.bin"
    config = Config(n_kv_heads=4, dim=128, head_dim=32, ffn_dim=256, norm_eps=1e-6)
    weights = Writer(config, tiny_tokenizer_file, generation, dtype).write(path, shards=2)
    with Llama.load(path, threads=1, n_ctx=64) as llm:
        assert relative_error(llm.logits(IDS), forward(config, weights, IDS)) < bound(dtype)
    path.with_name(path.name + ".1").unlink()
    with pytest.raises(CheckpointError, match=r"ggml-model-f16\.bin\.1 is missing"):
        Llama.load(path)


@pytest.mark.parametrize("generation", ["ggmf", "ggjt3"])
def test_the_vocabulary_is_a_tokenizer(tmp_path, tiny_tokenizer_file, generation):
    path = tmp_path / "ggml-model.bin"
    Writer(CONFIG, tiny_tokenizer_file, generation, "f16").write(path)
    model = sentencepiece.SentencePieceProcessor(str(tiny_tokenizer_file))
    with Llama.load(path, threads=1, n_ctx=64) as llm:
        for text in ("Once upon a time", "  two  spaces", "caf\u00e9 \U0001f600\n\ttab", "<s>", ""):
            ids = llm.tokenizer.encode(text, bos=False)
            assert ids == model.encode(text), text
            assert llm.tokenizer.decode(ids) == model.decode(ids)
        assert llm.tokenizer.stop_ids == {2}
        assert llm.tokenizer.bos_id == 1


def test_scores_of_files_without_them():
    """LLaMA's own: minus the position after the bytes, and -1e9 for marks alone."""
    from llama_rt.checkpoint.ggml_vocabulary import tokenizer_keys

    pieces = [b" \xe2\x81\x87 ", b"", b"", *(bytes([i]) for i in range(256)), b"  ", b" t", b"er"]
    keys = tokenizer_keys([*pieces, b" "], None, 265)
    assert keys["tokenizer.ggml.scores"][259:263] == [-1e9, -1.0, -2.0, -1e9]
    assert keys["tokenizer.ggml.tokens"][:4] == ["<unk>", "<s>", "</s>", "<0x00>"]
    assert keys["tokenizer.ggml.tokens"][259:] == [
        "\u2581\u2581", "\u2581t", "er", "\u2581", "<pad>", "[PAD264]",
    ]  # fmt: skip
    assert keys["tokenizer.ggml.token_type"][:4] == [2, 3, 3, 6]


def test_bytes_of_the_first_days():
    """The converter of 10 to 13 March 2023 wrote U+FFFD for bytes beyond ASCII."""
    from llama_rt.checkpoint.ggml_vocabulary import tokenizer_keys

    stored = [bytes([i]) if i < 0x80 else "\ufffd".encode() for i in range(256)]
    keys = tokenizer_keys([b" \xe2\x81\x87 ", b"", b"", *stored, b" t"], None, 260)
    assert keys["tokenizer.ggml.tokens"][3:259] == [f"<0x{i:02X}>" for i in range(256)]
    assert set(keys["tokenizer.ggml.token_type"][3:259]) == {6}
    assert keys["tokenizer.ggml.tokens"][259] == "\u2581t"


def test_gpt4all_declares_a_token_that_has_no_piece(tmp_path, tiny_tokenizer_file):
    """513 rows and 512 pieces: the last is the pad token, which is never sampled."""
    config = Config(n_kv_heads=4, vocab_size=513, norm_eps=1e-6)
    path = tmp_path / "gpt4all-lora-quantized.bin"
    weights = Writer(config, tiny_tokenizer_file, "ggml", "q4_0").write(path)
    with Llama.load(path, threads=1, n_ctx=64) as llm:
        assert (
            relative_error(llm.logits([*IDS, 512]), forward(config, weights, [*IDS, 512])) < 0.025
        )
        assert llm.tokenizer.encode("<pad>", bos=False) == llm.tokenizer.encode("<pad>", bos=False)
        assert 512 not in llm.tokenizer.encode("a <pad>")
        sampled = llm.generate(IDS, temperature=50.0, top_p=1.0, max_tokens=50, seed=1).tokens
        assert 512 not in sampled


def test_epsilon_and_context(tmp_path):
    """Not in the file: LLaMA 1's, and Llama 2's where heads or the name tell."""
    grouped = Config(n_kv_heads=2)
    Writer(CONFIG, None, "ggjt3", "f16").write(tmp_path / "a.bin")
    Writer(CONFIG, None, "ggjt3", "f16").write(tmp_path / "Llama-2-7b.ggmlv3.bin")
    Writer(grouped, None, "ggjt3", "f16").write(tmp_path / "b.bin")
    expected = {"a": (1e-6, 2048), "Llama-2-7b.ggmlv3": (1e-5, 4096), "b": (1e-5, 4096)}
    for name, values in expected.items():
        config = open_checkpoint(tmp_path / f"{name}.bin").config
        assert (config.norm_eps, config.max_context) == values
    assert open_checkpoint(tmp_path / "b.bin").config.n_kv_heads == 2


@pytest.mark.parametrize("target", ["new.gguf", "folder"])
def test_converting(tmp_path, tiny_tokenizer_file, target, capsys):
    from llama_rt.cli import main

    path = tmp_path / "old.bin"
    weights = Writer(CONFIG, tiny_tokenizer_file, "ggjt1", "q5_1").write(path)
    assert main(["convert", str(path), str(tmp_path / target), "--format", "f32"]) == 0
    capsys.readouterr()
    with Llama.load(tmp_path / target, threads=1, n_ctx=64) as llm:
        assert relative_error(llm.logits(IDS), forward(CONFIG, weights, IDS)) < 2e-3
        assert llm.tokenizer.decode(llm.tokenizer.encode("Hello there")) == "Hello there"


def test_damage_is_named(tmp_path, tiny_tokenizer_file):
    """Cut anywhere, or with any header byte changed: an answer or an error of ours."""
    whole = tmp_path / "whole.bin"
    writer = Writer(CONFIG, tiny_tokenizer_file, "ggjt1", "q4_0")
    writer.write(whole)
    data, head = whole.read_bytes(), len(writer.header())
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.bin"
    for end in [*rng.integers(4, len(data), 60), head, head + 5, len(data) - 1]:
        path.write_bytes(data[:end])
        with pytest.raises(LlamaRtError, match=r"damaged\.bin"):
            open_checkpoint(path)
    for at in [*range(4, 36), *rng.integers(36, head + 400, 100)]:
        changed = bytearray(data)
        changed[at] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        try:
            open_checkpoint(path)
        except LlamaRtError as error:
            assert "damaged.bin" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("at", "value", "said"), [(4, 9, "version 9"), (8, 0, "no model"), (16, 7, "7 heads|heads")]
)
def test_headers_that_describe_no_model(tmp_path, at, value, said):
    path = tmp_path / "x.bin"
    Writer(CONFIG, None, "ggjt2", "f16").write(path)
    data = bytearray(path.read_bytes())
    data[at : at + 4] = struct.pack("<i", value)
    if at == 16:
        data[20:24] = struct.pack("<i", value)
    path.write_bytes(data)
    with pytest.raises(LlamaRtError, match=said):
        open_checkpoint(path)


def test_types_that_were_removed(tmp_path):
    path = tmp_path / "x.bin"
    Writer(CONFIG, None, "ggjt1", "q4_0").write(path)
    data = path.read_bytes()
    at = data.index(b"tok_embeddings.weight") - 12
    path.write_bytes(data[:at] + struct.pack("<i", 4) + data[at + 4 :])
    with pytest.raises(CheckpointError, match="Q4_2"):
        open_checkpoint(path)


def test_scales_that_no_half_holds(tmp_path):
    path = tmp_path / "x.bin"
    Writer(CONFIG, None, "ggjt1", "q8_0").write(path)
    data = bytearray(path.read_bytes())
    at = data.index(b"tok_embeddings.weight") + 21
    at = -(-at // 32) * 32
    data[at : at + 4] = struct.pack("<f", 1e9)
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"tok_embeddings.*1e\+09"):
        Llama.load(path)
