"""How fast a model would be: this machine's bandwidth and its kernels, measured for a moment."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from llama_rt import _native
from llama_rt.machine import available_memory, gpu_of, read_bandwidth
from llama_rt.plan.needs import Needs, row_bytes

if TYPE_CHECKING:
    from llama_rt.config import ModelConfig

__all__ = ["decode_rate", "prefill_rate"]

_PROBE_BYTES = 512 << 20
_PROBE_SECONDS = 0.1
# Parts of a GPU's measured bandwidth and of its nominal rate of multiplications that decoding and
# prompts are expected to reach.
_GPU_SHARE = 0.8
_GPU_MULTIPLY_SHARE = 0.4
# A model of one layer whose weights stay in the caches shows what the kernels do without waiting
# for memory; the width is a multiple of every format's block.
_WIDTH = 1024
_HEADS = 8
_PROMPT = 256
_STEPS = 8
_REPEATS = 5


def decode_rate(backend: _native.Backend, needed: Needs, dtype: str) -> float:
    """Tokens per second of one sequence with a short context: each reads all weights once.

    Memory and arithmetic overlap, but not wholly: the two times are added as squares, which comes
    within a few percent of kernels between a third and nine tenths as slow as the memory.
    """
    waiting = needed.streamed / _bandwidth(backend.name, backend.threads)
    if gpu_of(backend.name) is not None:
        return 1 / waiting
    return 1 / math.hypot(waiting, needed.streamed / _kernel_rates(backend, dtype)[0])


def prefill_rate(backend: _native.Backend, config: ModelConfig, dtype: str) -> float:
    """Tokens per second of a prompt: the time goes into the multiplications of the layers."""
    gpu = gpu_of(backend.name)
    if gpu is not None:
        return gpu.multiply_rate * _GPU_MULTIPLY_SHARE / _multiplications(config)
    return _kernel_rates(backend, dtype)[1] / _multiplications(config)


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


_rates: dict[tuple[str, int, str], tuple[float, float]] = {}


def _kernel_rates(backend: _native.Backend, dtype: str) -> tuple[float, float]:
    """Weight bytes per second of decoding, and multiply-adds per second of a prompt, in cache.

    Measured once per process with a small model in the format.
    """
    key = (backend.isa, backend.threads, dtype)
    if key not in _rates:
        model = _small_model(backend, dtype)
        runner = _native.Runner(model, n_ctx=_PROMPT, max_batch_tokens=_PROMPT)
        prompt = np.zeros(_PROMPT, np.int32)
        sampler = _native.Sampler(_WIDTH, temperature=0.0)

        def read() -> None:
            sequence = runner.create()
            runner.forward([sequence], [prompt], outputs="none")
            runner.release(sequence)

        def write() -> None:
            sequence = runner.create()
            runner.decode([sequence], [0], [sampler], steps=_STEPS)
            runner.release(sequence)

        multiplied = _PROMPT * 7 * _WIDTH * _WIDTH
        _rates[key] = (
            _STEPS * model.streamed_bytes / _least_seconds(write),
            multiplied / _least_seconds(read),
        )
    return _rates[key]


def _least_seconds(body: Callable[[], None]) -> float:
    """Seconds of the fastest of several runs."""
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        body()
        times.append(time.perf_counter() - start)
    return min(times)


def _small_model(backend: _native.Backend, dtype: str) -> _native.Model:
    """One layer of square matrices of zeros; the embedding is its output too."""
    model = _native.Model(
        backend, dim=_WIDTH, n_layers=1, n_heads=_HEADS, n_kv_heads=_HEADS,
        head_dim=_WIDTH // _HEADS, ffn_dim=_WIDTH, vocab_size=_WIDTH, norm_eps=1e-6,
    )  # fmt: skip
    matrix = np.zeros(_WIDTH * row_bytes(_WIDTH, dtype), np.uint8)
    norm = np.ones(_WIDTH, np.float32)
    layer = "layers.0."
    inner = ("attention.wq", "attention.wk", "attention.wv", "attention.wo",
             "feed_forward.w1", "feed_forward.w2", "feed_forward.w3")  # fmt: skip
    for name in ("tok_embeddings", *(layer + part for part in inner)):
        model.add(f"{name}.weight", matrix.data, dtype, (_WIDTH, _WIDTH))
    for name in ("norm", layer + "attention_norm", layer + "ffn_norm"):
        model.add(f"{name}.weight", norm.data, "f32", (_WIDTH,))
    model.finish()
    return model
