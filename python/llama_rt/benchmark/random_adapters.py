"""Adapters of random numbers, to measure what they cost."""

from __future__ import annotations

import numpy as np

from llama_rt import _native
from llama_rt.config import ModelConfig

__all__ = ["random_adapters"]


def random_adapters(
    model: _native.Model, config: ModelConfig, *, lora_rank: int, llama_adapter: int
) -> list[_native.Adapter]:
    """A LoRA of a rank and a LLaMA-Adapter of a prefix length; 0: without."""
    adapters = []
    if lora_rank:
        adapters.append(_random_lora(model, config, lora_rank))
    if llama_adapter:
        adapters.append(_random_llama_adapter(model, config, llama_adapter))
    return adapters


def _random_lora(model: _native.Model, config: ModelConfig, rank: int) -> _native.Adapter:
    """An adapter of `rank` on all seven linears of every layer, small enough to change little."""
    heads, kv = config.n_heads * config.head_dim, config.kv_dim
    shapes = {
        "wq": (heads, config.dim),
        "wk": (kv, config.dim),
        "wv": (kv, config.dim),
        "wo": (config.dim, heads),
        "w1": (config.ffn_dim, config.dim),
        "w2": (config.dim, config.ffn_dim),
        "w3": (config.ffn_dim, config.dim),
    }
    random = np.random.default_rng(4)
    adapter = _native.Adapter(model)
    for layer in range(config.n_layers):
        for slot, (rows, columns) in shapes.items():
            a = random.standard_normal((rank, columns), np.float32) * np.float32(0.01)
            b = random.standard_normal((rows, rank), np.float32) * np.float32(0.01)
            adapter.add_lora(layer, slot, a, b)
    return adapter


def _random_llama_adapter(
    model: _native.Model, config: ModelConfig, length: int
) -> _native.Adapter:
    """Gated prefixes on all layers but the first two, as in the published V1 (30 of 32)."""
    random = np.random.default_rng(5)
    adapter = _native.Adapter(model)
    for layer in range(min(2, config.n_layers - 1), config.n_layers):
        prefix = random.standard_normal((length, config.dim), np.float32)
        gate = random.standard_normal(config.n_heads, np.float32) * np.float32(0.1)
        adapter.add_prefix(layer, prefix, gate)
    return adapter
