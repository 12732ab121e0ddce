"""How fast a model would be: the hardware's bandwidth and the kernels, measured for a moment."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np

from llama_rt import _native
from llama_rt.hardware import available_memory, gpu_of, read_bandwidth
from llama_rt.memory.estimate import MemoryEstimate, row_bytes

if TYPE_CHECKING:
    from llama_rt.config import ModelConfig

__all__ = ["decode_rate", "prefill_rate"]

_PROBE_BYTES = 512 << 20
_PROBE_SECONDS = 0.1
# Parts of a GPU's measured bandwidth and of its nominal rate of multiplications that decoding and
# prompts are expected to reach.
_GPU_SHARE = 0.8
_GPU_MULTIPLY_SHARE = 0.4
# Models of one layer show what the kernels do: for decoding one whose weights stay in the caches,
# so that nothing waits for memory; for prompts a wider one, because the length of sums counts.
_DECODE_WIDTH = 1024
_PROMPT_WIDTH = 2048
_HEAD = 128
_SHORT_PROMPT = 16  # whose rate is taken where even that takes long
_PROMPT = 256
_STEPS = 8
_REPEATS = 5
_MAX_TRIAL_SECONDS = 0.3  # seconds after which a run is not repeated a second time


def decode_rate(backend: _native.Backend, needed: MemoryEstimate, dtype: str) -> float:
    """Tokens per second of one sequence with a short context: each reads all weights once.

    Memory and arithmetic overlap, but not wholly: the two times are added as squares, which fits
    most formats within a few percent and promises Q6_K a tenth too much.
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
    """Weight bytes per second of decoding in cache, and multiply-adds per second of a prompt.

    Measured once per process and format.
    """
    key = (backend.isa, backend.threads, dtype)
    if key not in _rates:
        _rates[key] = (_decode_bytes(backend, dtype), _prompt_multiplications(backend, dtype))
    return _rates[key]


def _decode_bytes(backend: _native.Backend, dtype: str) -> float:
    model = _small_model(backend, dtype, _DECODE_WIDTH)
    runner = _native.Runner(model, n_ctx=_STEPS, max_batch_tokens=1)
    sampler = _native.Sampler(_HEAD, temperature=0.0)

    def write() -> None:
        sequence = runner.create()
        runner.decode([sequence], [0], [sampler], steps=_STEPS)
        runner.release(sequence)

    return _STEPS * model.streamed_bytes / _min_seconds(write)


def _prompt_multiplications(backend: _native.Backend, dtype: str) -> float:
    model = _small_model(backend, dtype, _PROMPT_WIDTH)
    runner = _native.Runner(model, n_ctx=_PROMPT, max_batch_tokens=_PROMPT)

    def read(tokens: int) -> None:
        sequence = runner.create()
        runner.forward([sequence], [np.zeros(tokens, np.int32)], outputs="none")
        runner.release(sequence)

    tokens = _SHORT_PROMPT
    seconds = _min_seconds(partial(read, tokens))
    if seconds < _MAX_TRIAL_SECONDS:
        tokens = _PROMPT
        seconds = _min_seconds(partial(read, tokens))
    return tokens * 7 * _PROMPT_WIDTH * _PROMPT_WIDTH / seconds


def _min_seconds(body: Callable[[], None]) -> float:
    """Seconds of the fastest of several runs, of which the first meets cold memory."""
    times: list[float] = []
    while len(times) < 2 or (len(times) < _REPEATS and sum(times) < _MAX_TRIAL_SECONDS):
        start = time.perf_counter()
        body()
        times.append(time.perf_counter() - start)
    return min(times)


def _small_model(backend: _native.Backend, dtype: str, width: int) -> _native.Model:
    """One layer of seven square matrices of zeros and a small vocabulary."""
    heads, vocabulary = width // _HEAD, _HEAD
    model = _native.Model(
        backend, dim=width, n_layers=1, n_heads=heads, n_kv_heads=heads, head_dim=_HEAD,
        ffn_dim=width, vocab_size=vocabulary, norm_eps=1e-6,
    )  # fmt: skip
    matrix = np.zeros(width * row_bytes(width, dtype), np.uint8)
    table = matrix[: vocabulary * row_bytes(width, dtype)]
    norm = np.ones(width, np.float32)
    model.add("tok_embeddings.weight", table.data, dtype, (vocabulary, width))
    for part in ("attention.wq", "attention.wk", "attention.wv", "attention.wo",
                 "feed_forward.w1", "feed_forward.w2", "feed_forward.w3"):  # fmt: skip
        model.add(f"layers.0.{part}.weight", matrix.data, dtype, (width, width))
    for name in ("norm", "layers.0.attention_norm", "layers.0.ffn_norm"):
        model.add(f"{name}.weight", norm.data, "f32", (width,))
    model.finish()
    return model
