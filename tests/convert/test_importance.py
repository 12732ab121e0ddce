"""Importance matrices: both formats, and errors that fall where they count."""

import struct

import gguf
import numpy as np
import pytest

from llama_rt import _native
from llama_rt.checkpoint import open_checkpoint
from llama_rt.convert import convert
from llama_rt.convert.importance import read_importance
from llama_rt.errors import CheckpointError, ConfigError, ShapeError
from reference.blocks import FORMATS
from reference.checkpoints import write_gguf
from reference.model import Config, random_weights

CONFIG = Config(dim=256, n_heads=4, n_kv_heads=2, head_dim=64, ffn_dim=512, n_layers=1)
ENCODED = [row.name for row in _native.dtypes() if row.encodable and row.block_elements > 1]
SEARCHED = [name for name in ENCODED if name != "q8_0"]
NAME = "layers.0.feed_forward.w1.weight"


def importance(width, seed=0):
    """As measured: a few columns meet far larger inputs than the others."""
    return np.exp(1.5 * np.random.default_rng(seed).standard_normal(width)).astype(np.float32)


def entries(config):
    blocks = {"attn_q": config.dim, "attn_k": config.dim, "attn_v": config.dim,
              "attn_output": config.dim, "ffn_gate": config.dim, "ffn_up": config.dim,
              "ffn_down": config.ffn_dim}  # fmt: skip
    return {f"blk.0.{name}.weight": importance(width, i)
            for i, (name, width) in enumerate(blocks.items())}  # fmt: skip


def legacy(path, values, calls=7):
    with path.open("wb") as file:
        file.write(struct.pack("<i", len(values)))
        for name, value in values.items():
            file.write(struct.pack("<i", len(name)) + name.encode())
            file.write(struct.pack("<ii", calls, len(value)))
            file.write((value * calls).astype("<f4").tobytes())
        file.write(struct.pack("<ii", 7, 4) + b"text")
    return path


def modern(path, values, calls=512.0):
    writer = gguf.GGUFWriter(path, "unused")
    writer.add_type("imatrix")
    for name, value in values.items():
        writer.add_tensor(f"{name}.in_sum2", (value * calls).astype(np.float32)[None])
        writer.add_tensor(f"{name}.counts", np.full((1, 1), calls, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("write", [legacy, modern])
def test_both_formats(tmp_path, write):
    values = entries(CONFIG) | {"blk.0.ffn_gate_inp.weight": importance(8)}
    found = read_importance(write(tmp_path / "m", values))
    assert len(found) == 7
    expected = values["blk.0.ffn_gate.weight"].astype(np.float64)
    np.testing.assert_allclose(found[NAME], expected / expected.mean(), rtol=1e-5)


def weighted_error(x, dtype, weights, **options):
    stored = _native.requantize(x, "f32", x.shape[1], dtype, **options)
    back = _native.decode(stored, dtype, x.size).reshape(x.shape)
    return float((weights * (back.astype(np.float64) - x) ** 2).sum())


@pytest.mark.parametrize("dtype", SEARCHED)
def test_weighted_error_falls(dtype):
    x = np.random.default_rng(3).standard_t(5, (64, 512)).astype(np.float32)
    weights = importance(512)
    plain = weighted_error(x, dtype, weights)
    assert weighted_error(x, dtype, weights, importance=weights) < 0.95 * plain
    # Equal importance is what a search by the plain square of the error finds.
    alike = np.ones(512, np.float32)
    assert weighted_error(x, dtype, alike, importance=alike) < 1.001 * weighted_error(
        x, dtype, alike
    )


def best_symmetric(x, w, levels):
    """The least weighted error of `scale * level` in float64, over 2000 scales of each group."""
    x, w = x.astype(np.float64).reshape(-1, 32), w.astype(np.float64).reshape(-1, 32)
    middles = (levels[1:] + levels[:-1]) / 2
    best = np.full(len(x), np.inf)
    for end in np.linspace(0.5, 1.6, 1000):
        for sign in (-1, 1):
            scale = sign * end * np.abs(x).max(1, keepdims=True) / np.abs(levels).max()
            q = levels[np.searchsorted(middles, x / scale)]
            best = np.minimum(best, (w * (scale * q - x) ** 2).sum(1))
    return best.sum()


IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113.0])


@pytest.mark.parametrize(("dtype", "levels"), [("q4_0", np.arange(-8, 8.0)), ("iq4_nl", IQ4),
                                               ("q5_0", np.arange(-16, 16.0))])  # fmt: skip
@pytest.mark.parametrize("given", [True, False])
def test_near_the_best_there_is(dtype, levels, given):
    x = np.random.default_rng(5).standard_t(5, (16, 256)).astype(np.float32)
    if given:
        weights = np.tile(importance(256), (16, 1))
        error = weighted_error(x, dtype, weights, importance=weights[0])
    else:  # as without an importance matrix: x^2 and twice the group's mean square
        squares = x.astype(np.float64).reshape(-1, 32) ** 2
        weights = (squares + 2 * squares.mean(1, keepdims=True)).reshape(x.shape)
        error = weighted_error(x, dtype, weights)
    # Importance may make it best to clip more than the search tries.
    assert error < (1.08 if given else 1.04) * best_symmetric(x, weights, levels)


@pytest.mark.parametrize("dtype", ENCODED)
def test_bytes_depend_on_neither_order_nor_threads(dtype):
    x = np.random.default_rng(4).standard_normal((33, 256)).astype(np.float32)
    weights = importance(256)
    whole = _native.requantize(x, "f32", 256, dtype, importance=weights, threads=2)
    rows = [_native.requantize(row, "f32", 256, dtype, importance=weights, threads=1) for row in x]
    np.testing.assert_array_equal(whole, np.concatenate(rows))
    if dtype == "q8_0":  # nothing to choose
        np.testing.assert_array_equal(whole, _native.requantize(x, "f32", 256, dtype))


def test_one_number_for_each_column():
    with pytest.raises(ShapeError, match="255 values for rows of 256"):
        _native.requantize(
            np.zeros(256, np.float32), "f32", 256, "q4_k", importance=np.ones(255, np.float32)
        )


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "f32.gguf"
    return write_gguf(path, CONFIG, random_weights(CONFIG, seed=1), dtype="f32")


@pytest.mark.parametrize("format", ["q4_k_m", "iq4_xs", "q3_k"])
def test_conversion(tmp_path, source, format):
    matrix = legacy(tmp_path / "m.dat", entries(CONFIG))
    done = convert(source, tmp_path / "with.gguf", format, imatrix=matrix)
    convert(source, tmp_path / "without.gguf", format)
    assert any("nothing on token_embd.weight, output.weight" in note for note in done.notes)
    exact = open_checkpoint(source).tensors[NAME].read().view("<f4").reshape(512, 256)
    errors = []
    for name in ("with.gguf", "without.gguf"):
        record = open_checkpoint(tmp_path / name).tensors[NAME]
        back = FORMATS[record.dtype].decode(record.read().reshape(-1, FORMATS[record.dtype].bytes))
        off = back.reshape(512, 256).astype(np.float64) - exact
        errors.append((entries(CONFIG)["blk.0.ffn_gate.weight"] * off**2).sum())
    assert errors[0] < 0.95 * errors[1]


def test_refusals(tmp_path, source):
    matrix = legacy(tmp_path / "m.dat", entries(CONFIG))
    with pytest.raises(ConfigError, match="only GGUF has"):
        convert(source, tmp_path / "folder", "f16", imatrix=matrix)
    other = legacy(tmp_path / "o", {"blk.0.ffn_gate.weight": importance(512)})
    with pytest.raises(CheckpointError, match="another model"):
        convert(source, tmp_path / "x.gguf", "q4_k", imatrix=other)
    with pytest.raises(CheckpointError, match="not an importance matrix"):
        read_importance(source)
    with pytest.raises(CheckpointError, match="without one matrix"):
        read_importance(legacy(tmp_path / "e", {"other": importance(8)}))
    with pytest.raises(CheckpointError, match="negative or not finite"):
        read_importance(modern(tmp_path / "n", {"blk.0.attn_q.weight": -importance(256)}))
    data = matrix.read_bytes()
    for cut in (0, 3, 6, 40, 100, 2000):
        (tmp_path / "cut").write_bytes(data[:cut])
        with pytest.raises(CheckpointError):
            read_importance(tmp_path / "cut")
