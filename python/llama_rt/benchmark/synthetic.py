"""Models of a known shape with random weights, made in memory: for measuring without a file.

Records look like a file's; their bytes are made when they are read. A pool of valid random blocks
is made once per type, and every tensor is filled with pieces of it: as fast as memory allows, and
on a device, which takes the pool alone, as fast as its memory does.
Values have a trained model's spread, so that nothing overflows and no block is degenerate.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llama_rt.checkpoint.checkpoint import Checkpoint
from llama_rt.checkpoint.names import DIVISORS, expected_tensors
from llama_rt.config import ModelConfig
from llama_rt.convert.recipes import formats, matrix_type
from llama_rt.errors import ConfigError
from llama_rt.formats.dtypes import STORED, stored_bytes
from llama_rt.formats.records import TensorRecord, make_record

__all__ = ["SHAPES", "RandomPieces", "synthetic_checkpoint"]

Bytes = npt.NDArray[np.uint8]

_POOL_BYTES = 16 << 20
_SPREAD = 0.02  # standard deviation of a trained matrix's weights, roughly


def _llama(dim: int, layers: int, heads: int, ffn: int, eps: float = 1e-6) -> ModelConfig:
    return ModelConfig(
        dim=dim, n_layers=layers, n_heads=heads, n_kv_heads=heads, head_dim=dim // heads,
        ffn_dim=ffn, vocab_size=32000, norm_eps=eps, max_context=2048,
    )  # fmt: skip


# LLaMA 1 as released (llama `MODEL_CARD.md`), and 8 layers of the 7B width for quick runs.
SHAPES: dict[str, ModelConfig] = {
    "7B": _llama(4096, 32, 32, 11008),
    "13B": _llama(5120, 40, 40, 13824),
    "33B": _llama(6656, 60, 52, 17920),
    "65B": _llama(8192, 80, 64, 22016, 1e-5),
    "8x4096": _llama(4096, 8, 32, 11008),
}


def synthetic_checkpoint(
    shape: str | ModelConfig, format: str = "f16", *, tie: bool = False, seed: int = 0
) -> Checkpoint:
    """A checkpoint of random weights.

    Args:
        shape: `"7B"`, `"13B"`, `"33B"`, `"65B"`, `"8x4096"`, or any configuration.
        format: a stored type (all matrices have it) or a recipe such as `"q4_k_m"`. Matrices whose
            rows are not whole blocks take a type of smaller blocks, or f16. Norms are f32.
        tie: the output is the embedding.
        seed: the same seed gives the same bytes.

    Raises:
        ConfigError: an unknown shape or format.
    """
    if isinstance(shape, str):
        if shape not in SHAPES:
            msg = f"unknown shape {shape!r}; known: {', '.join(SHAPES)}"
            raise ConfigError(msg)
        config = replace(SHAPES[shape], name=shape)
    else:
        config = shape
    if tie:
        config = replace(config, tie_embeddings=True)
    known = formats()
    if format not in known:
        msg = f"unknown format {format!r}; known: {', '.join(known)}"
        raise ConfigError(msg)
    path = Path(f"synthetic-{config.name or 'model'}-{format}")
    tensors: dict[str, TensorRecord] = {}
    for name, dims, required in expected_tensors(config):
        if name == DIVISORS or not required:
            continue
        dtype = _tensor_type(name, dims, format, config)
        nbytes = stored_bytes(dtype, dims, what=name, file=path)
        source = RandomPieces(dtype, nbytes, "norm" if "norm" in name else "weight", name, seed)
        tensors[name] = make_record(name, dtype, dims, path, source)
    metadata: dict[str, object] = {"general.architecture": "llama", "general.name": config.name}
    return Checkpoint(path, "gguf", config, tensors, metadata)


def _tensor_type(name: str, dims: tuple[int, ...], format: str, config: ModelConfig) -> str:
    if len(dims) == 1:
        return "f32"
    return matrix_type(name, dims[-1], format, config) or "f16"


@dataclass(frozen=True, slots=True)
class RandomPieces:
    """Bytes made on demand: pieces of the type's pool, each from a random block to its end."""

    dtype: str
    nbytes: int
    role: str
    name: str
    seed: int

    def pieces(self) -> tuple[Bytes, list[int]]:
        """The pool, and the blocks of it at which pieces begin; the same every time."""
        pool = _pool(self.dtype, self.role, self.seed)
        block = STORED[self.dtype].block_bytes
        random = np.random.default_rng([self.seed, zlib.crc32(self.name.encode())])
        starts: list[int] = []
        left = self.nbytes
        while left > 0:
            starts.append(int(random.integers(len(pool) // block)))
            left -= len(pool) - starts[-1] * block
        return pool, starts

    def read(self) -> Bytes:
        """Fresh bytes, the same every time."""
        pool, starts = self.pieces()
        block = STORED[self.dtype].block_bytes
        out = np.empty(self.nbytes, np.uint8)
        written = 0
        for start in starts:
            piece = pool[start * block : start * block + self.nbytes - written]
            out[written : written + len(piece)] = piece
            written += len(piece)
        return out


@lru_cache(maxsize=8)
def _pool(dtype: str, role: str, seed: int) -> Bytes:
    """About 16 MiB of valid blocks."""
    row = STORED[dtype]
    random = np.random.default_rng([seed, row.gguf_id])
    blocks = _POOL_BYTES // row.block_bytes
    if role == "norm":
        values = 1.0 + _SPREAD * random.standard_normal(blocks, np.float32)
        return values.astype(np.float32).view(np.uint8)
    pool = np.ascontiguousarray(_MAKERS[dtype](random, blocks)).reshape(-1).view(np.uint8)
    pool.flags.writeable = False
    return pool


# --- valid blocks of each type; layouts: ggml `ggml-common.h` ---


def _floats(random: np.random.Generator, count: int) -> npt.NDArray[np.float32]:
    values = random.standard_normal(count, np.float32)
    values *= np.float32(_SPREAD)
    return values


def _f32(random: np.random.Generator, blocks: int) -> Bytes:
    return _floats(random, blocks).view(np.uint8)


def _f16(random: np.random.Generator, blocks: int) -> Bytes:
    return _floats(random, blocks).astype(np.float16).view(np.uint8)


def _bf16(random: np.random.Generator, blocks: int) -> Bytes:
    upper = _floats(random, blocks).view(np.uint16)[1::2]
    return np.ascontiguousarray(upper).view(np.uint8)


def _scale(
    random: np.random.Generator, blocks: int, quant_spread: float, *, signed: bool
) -> npt.NDArray[np.float16]:
    """Block scales: steps such that values spread like weights, varying by a fifth."""
    steps = np.exp(0.2 * random.standard_normal(blocks, np.float32)) * (_SPREAD / quant_spread)
    if signed:
        steps *= random.integers(0, 2, blocks, dtype=np.int8) * 2 - 1
    scales: npt.NDArray[np.float16] = steps.astype(np.float16)
    return scales


def _bytes_of(values: npt.NDArray[np.float16]) -> Bytes:
    return values.view(np.uint8).reshape(-1, 2)


def _random_bytes(random: np.random.Generator, blocks: int, width: int) -> Bytes:
    return np.frombuffer(random.bytes(blocks * width), np.uint8).reshape(blocks, width)


def _centred(levels: int, payload: int) -> Callable[[np.random.Generator, int], Bytes]:
    """q4_0, q5_0: a scale and levels counted from the middle; its sign evens out the odd level."""
    spread = (levels**2 / 12) ** 0.5

    def make(random: np.random.Generator, blocks: int) -> Bytes:
        scale = _scale(random, blocks, spread, signed=True)
        return np.hstack([_bytes_of(scale), _random_bytes(random, blocks, payload)])

    return make


def _offset(levels: int, payload: int) -> Callable[[np.random.Generator, int], Bytes]:
    """q4_1, q5_1: a scale, a minimum that centres the levels, the levels."""
    spread = (levels**2 / 12) ** 0.5

    def make(random: np.random.Generator, blocks: int) -> Bytes:
        scale = _scale(random, blocks, spread, signed=False)
        minimum = (scale.astype(np.float32) * (-(levels - 1) / 2)).astype(np.float16)
        body = _random_bytes(random, blocks, payload)
        return np.hstack([_bytes_of(scale), _bytes_of(minimum), body])

    return make


def _q8_0(random: np.random.Generator, blocks: int) -> Bytes:
    scale = _scale(random, blocks, 127 / 3**0.5, signed=False)
    # -128 never comes out of an encoder.
    quants = random.integers(-127, 128, (blocks, 32), dtype=np.int8).view(np.uint8)
    return np.hstack([_bytes_of(scale), quants])


def _q2_k(random: np.random.Generator, blocks: int) -> Bytes:
    factor = random.integers(8, 16, (blocks, 16), dtype=np.uint8)
    scale = _scale(random, blocks, 11.5 * 1.12, signed=False)
    minimum = (scale.astype(np.float32) * 1.5).astype(np.float16)  # the middle of 0..3
    quants = _random_bytes(random, blocks, 64)
    return np.hstack([factor | factor << 4, quants, _bytes_of(scale), _bytes_of(minimum)])


def _q3_k(random: np.random.Generator, blocks: int) -> Bytes:
    """Sixteen signed 6-bit factors (stored with 32 added) of magnitude 8 to 31, in 12 bytes."""
    factor = random.integers(8, 32, (blocks, 16), dtype=np.int8)
    factor *= random.integers(0, 2, (blocks, 16), dtype=np.int8) * 2 - 1
    stored = (factor + 32).view(np.uint8)
    low = (stored[:, :8] & 15) | (stored[:, 8:] & 15) << 4
    upper = (stored >> 4).reshape(blocks, 4, 4)
    high = upper[:, 0] | upper[:, 1] << 2 | upper[:, 2] << 4 | upper[:, 3] << 6
    body = _random_bytes(random, blocks, 32 + 64)
    scale = _scale(random, blocks, 20.7 * 2.35, signed=False)
    return np.hstack([body, low, high, _bytes_of(scale)])


def _packed_factors(random: np.random.Generator, blocks: int) -> Bytes:
    """Eight 6-bit factors and equal minima in 12 bytes, as q4_k and q5_k store them."""
    factor = random.integers(32, 64, (blocks, 8), dtype=np.uint8)
    low, high = factor[:, :4], factor[:, 4:]
    first = low | (high >> 4) << 6
    return np.hstack([first, first, (high & 15) | (high & 15) << 4])


def _q4_k(random: np.random.Generator, blocks: int) -> Bytes:
    return _k_offset(random, blocks, 16, 128)


def _q5_k(random: np.random.Generator, blocks: int) -> Bytes:
    return _k_offset(random, blocks, 32, 32 + 128)


def _k_offset(random: np.random.Generator, blocks: int, levels: int, payload: int) -> Bytes:
    scale = _scale(random, blocks, 48 * (levels**2 / 12) ** 0.5, signed=False)
    minimum = (scale.astype(np.float32) * ((levels - 1) / 2)).astype(np.float16)
    factors = _packed_factors(random, blocks)
    body = _random_bytes(random, blocks, payload)
    return np.hstack([_bytes_of(scale), _bytes_of(minimum), factors, body])


def _q6_k(random: np.random.Generator, blocks: int) -> Bytes:
    quants = _random_bytes(random, blocks, 128 + 64)
    factor = random.integers(32, 128, (blocks, 16), dtype=np.int8)
    factor *= random.integers(0, 2, (blocks, 16), dtype=np.int8) * 2 - 1
    scale = _scale(random, blocks, 85 * 18.5, signed=False)
    return np.hstack([quants, factor.view(np.uint8), _bytes_of(scale)])


_IQ4_SPREAD = 68.5  # root mean square of the sixteen levels


def _iq4_nl(random: np.random.Generator, blocks: int) -> Bytes:
    scale = _scale(random, blocks, _IQ4_SPREAD, signed=True)
    return np.hstack([_bytes_of(scale), _random_bytes(random, blocks, 16)])


def _iq4_xs(random: np.random.Generator, blocks: int) -> Bytes:
    """Eight signed 6-bit factors (stored with 32 added) of magnitude 8 to 31."""
    factor = random.integers(8, 32, (blocks, 8), dtype=np.int8)
    factor *= random.integers(0, 2, (blocks, 8), dtype=np.int8) * 2 - 1
    stored = (factor + 32).astype(np.uint16)
    high = np.bitwise_or.reduce((stored >> 4) << np.arange(0, 16, 2, dtype=np.uint16), axis=1)
    low = (stored[:, ::2] & 15 | (stored[:, 1::2] & 15) << 4).astype(np.uint8)
    scale = _scale(random, blocks, 20.7 * _IQ4_SPREAD, signed=False)
    high_bytes = np.ascontiguousarray(high.astype("<u2")).view(np.uint8).reshape(-1, 2)
    return np.hstack([_bytes_of(scale), high_bytes, low, _random_bytes(random, blocks, 128)])


_MAKERS: dict[str, Callable[[np.random.Generator, int], Bytes]] = {
    "f32": _f32,
    "f16": _f16,
    "bf16": _bf16,
    "q4_0": _centred(16, 16),
    "q4_1": _offset(16, 16),
    "q5_0": _centred(32, 20),
    "q5_1": _offset(32, 20),
    "q8_0": _q8_0,
    "q2_k": _q2_k,
    "q3_k": _q3_k,
    "q4_k": _q4_k,
    "q5_k": _q5_k,
    "q6_k": _q6_k,
    "iq4_nl": _iq4_nl,
    "iq4_xs": _iq4_xs,
}
