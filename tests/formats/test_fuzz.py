"""Damaged checkpoints of every format: a typed error or the same model, never anything else.

Every case changes some bytes of a sound checkpoint, cuts it, or repeats a part of it. Seeds are
fixed; the number of rounds keeps the whole file to a few seconds.
"""

import json
import resource

import numpy as np
import pytest
import torch

from formats.test_gguf import split
from llama_rt.checkpoint import open_checkpoint
from llama_rt.errors import CheckpointError, ConfigError
from reference.checkpoints import write_gguf, write_hf, write_meta
from reference.model import Config, random_weights

CONFIG = Config(dim=32, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=16, ffn_dim=32, vocab_size=40)
ROUNDS = 60


def meta(folder):
    return write_meta(folder, CONFIG, random_weights(CONFIG, seed=1), shards=2)


def legacy(folder):
    meta(folder)
    for file in folder.glob("*.pth"):
        torch.save(torch.load(file), file, _use_new_zipfile_serialization=False)
    return folder


def hf(folder):
    return write_hf(folder, CONFIG, random_weights(CONFIG, seed=1), max_shard_size="8KB")


def pickled(folder):
    return write_hf(folder, CONFIG, random_weights(CONFIG, seed=1), container="bin")


def gguf_file(folder):
    folder.mkdir()
    write_gguf(folder / "m.gguf", CONFIG, random_weights(CONFIG, seed=1), dtype="q8_0")
    return folder


def gguf_split(folder):
    folder.mkdir()
    config = Config()
    split(folder / "m.gguf", random_weights(config, seed=1))
    return folder


FORMATS = [meta, legacy, hf, pickled, gguf_file, gguf_split]


def header_span(path, raw: bytes) -> tuple[int, int]:
    """The bytes where structure lies: mutations in weights alone prove nothing."""
    if path.suffix == ".safetensors":
        return 0, 8 + int.from_bytes(raw[:8], "little")
    if path.suffix in (".pth", ".bin"):
        if raw[:2] == b"PK":
            sections = [(0, 3000), (max(0, len(raw) - 3000), len(raw))]
            return sections[np.random.default_rng(len(raw)).integers(2)]
        return 0, min(len(raw), 4000)
    if path.suffix == ".gguf":
        return 0, min(len(raw), 3000)
    return 0, len(raw)


def opens(folder) -> bool:
    """True if the checkpoint opens and all of it can be read; checks the error if not."""
    try:
        checkpoint = open_checkpoint(folder)
        for record in checkpoint.tensors.values():
            assert record.read().nbytes == record.nbytes
    except (CheckpointError, ConfigError) as error:
        message = str(error)
    else:
        rope = checkpoint.config.rope_scaling
        assert np.isfinite([rope.factor, rope.attention_factor]).all()
        return True
    assert len(message) < 2000
    assert str(folder) in message
    return False


def mutated(rng, path, raw: bytes) -> bytes:
    data = bytearray(raw)
    low, high = header_span(path, raw)
    kind = rng.integers(7)
    at = int(rng.integers(low, high))
    if kind == 0:
        return bytes(data[: rng.integers(len(data) + 1)])
    if kind == 1:
        data[at] ^= 1 << rng.integers(8)
    elif kind == 2:
        data[at : at + 8] = rng.choice([b"\xff" * 8, bytes(8), b"\0\0\0\0\0\0\0\x80", b"\x7f" * 4])
    elif kind == 3:
        del data[at : at + int(rng.integers(1, 9))]
    elif kind == 4:
        start = int(rng.integers(low, high))
        data[at:at] = data[start : start + int(rng.integers(1, 64))]
    elif kind == 5:
        for _ in range(8):
            data[int(rng.integers(low, high))] = rng.integers(256)
    else:
        start = int(rng.integers(low, high))
        data[at : at + 16] = data[start : start + 16]
    return bytes(data)


@pytest.mark.parametrize("make", FORMATS, ids=lambda make: make.__name__)
def test_damaged_files(tmp_path, make):
    folder = make(tmp_path / "sound")
    files = sorted(file for file in folder.iterdir() if file.suffix != ".model")
    rng = np.random.default_rng(7)
    opened = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(ROUNDS):
        path = files[rng.integers(len(files))]
        raw = path.read_bytes()
        path.unlink()  # a new file: writing into one that is mapped changes what is being read
        path.write_bytes(mutated(rng, path, raw))
        opened += opens(folder)
        path.unlink()
        path.write_bytes(raw)
    assert opens(folder)
    assert opened < ROUNDS * 0.9
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # KiB


VALUES = [None, True, -1, 0, 1, 2**31, 2**63, 10**400, 0.5, 1e308, float("inf"), float("nan"),
          "x", "", [], {}, [1], {"a": 1}, [[[]]]]  # fmt: skip


@pytest.mark.parametrize("make", [hf, meta], ids=lambda make: make.__name__)
def test_wrong_values_in_every_key(tmp_path, make):
    folder = make(tmp_path / "sound")
    path = folder / ("config.json" if make is hf else "params.json")
    sound = json.loads(path.read_text())
    extra = ["rope_scaling", "sliding_window", "rope_theta", "n_kv_heads", "ffn_dim_multiplier",
             "use_scaled_rope", "quantization_config", "max_seq_len", "model"]  # fmt: skip
    for key in [*sound, *extra]:
        for value in VALUES:
            path.write_text(json.dumps(sound | {key: value}))
            opens(folder)
    for key in sound:
        path.write_text(json.dumps({k: v for k, v in sound.items() if k != key}))
        opens(folder)
    path.write_text(json.dumps(sound))
    assert opens(folder)


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn", "llama3", "longrope", "nonsense", 5])
def test_wrong_values_in_rope_scaling(tmp_path, kind):
    folder = hf(tmp_path / "sound")
    path = folder / "config.json"
    sound = json.loads(path.read_text())
    keys = ["factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor",
            "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "attention_factor", "rope_theta",
            "truncate", "rope_type"]  # fmt: skip
    base = {"rope_type": kind, "factor": 2.0}
    for key in keys:
        for value in [*VALUES, -0.5, 1e-300]:
            path.write_text(json.dumps(sound | {"rope_parameters": base | {key: value}}))
            opens(folder)
