"""How fast a model would be: this machine's bandwidth and matrix kernels, measured for a moment."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from llama_rt import _native
from llama_rt.machine import available_memory, gpu_of, read_bandwidth
from llama_rt.plan.needs import Needs, dtype_table

if TYPE_CHECKING:
    from llama_rt.config import ModelConfig

__all__ = ["decode_rate", "prefill_rate"]

_PROBE_BYTES = 512 << 20
_PROBE_SECONDS = 0.1
# Parts of a GPU's measured bandwidth and of its nominal rate of multiplications that decoding and
# prompts are expected to reach.
_GPU_SHARE = 0.8
_GPU_MULTIPLY_SHARE = 0.4


def decode_rate(backend: _native.Backend, needed: Needs) -> float:
    """Tokens per second of one sequence with a short context: each reads all weights once."""
    return _bandwidth(backend.name, backend.threads) / needed.streamed


def prefill_rate(backend: _native.Backend, config: ModelConfig, dtype: str) -> float:
    """Tokens per second of a prompt: the time goes into the multiplications of the layers."""
    gpu = gpu_of(backend.name)
    if gpu is not None:
        return gpu.multiply_rate * _GPU_MULTIPLY_SHARE / _multiplications(config)
    return _multiply_rate(backend, dtype) / _multiplications(config)


def _multiplications(config: ModelConfig) -> float:
    """Multiply-adds of the linear layers for one token of a prompt (only its last needs logits)."""
    heads = config.n_heads * config.head_dim
    attention = config.dim * (2 * heads + 2 * config.n_kv_heads * config.head_dim)
    return float(config.n_layers * (attention + 3 * config.dim * config.ffn_dim))


@lru_cache(maxsize=8)
def _bandwidth(device: str, threads: int) -> float:
    """Bytes per second read from memory, measured for a moment, once per process."""
    if gpu_of(device) is not None:
        return _GPU_SHARE * read_bandwidth(device=device, seconds=_PROBE_SECONDS)
    size = min(_PROBE_BYTES, available_memory()[1] // 4)
    return _native.read_bandwidth(threads, size, _PROBE_SECONDS)


_rates: dict[tuple[str, str, int, str], float] = {}


def _multiply_rate(backend: _native.Backend, dtype: str) -> float:
    """Multiply-adds per second of a matrix product in a format, measured once per process."""
    key = (backend.name, backend.isa, backend.threads, dtype)
    if key not in _rates:
        width, rows, few, many = 1024, 1024, 64, 576
        row = dtype_table()[dtype]
        weight = np.zeros(rows * width // row.block_elements * row.block_bytes, np.uint8)

        def seconds(tokens: int) -> float:
            x = np.ones((tokens, width), np.float32)
            start = time.perf_counter()
            _native.op_matmul(backend, x, weight.data, dtype, rows)
            return time.perf_counter() - start

        # Every call lays the matrix out anew, a model does it once: the difference leaves it out.
        least, most = (min(seconds(tokens) for _ in range(4)) for tokens in (few, many))
        spent = max(most - least, most * (many - few) / many / 4)
        _rates[key] = (many - few) * width * rows / spent
    return _rates[key]
