"""A LoRA of random numbers, to measure what one costs."""

from __future__ import annotations

import numpy as np

from llama_rt import _native
from llama_rt.config import ModelConfig

__all__ = ["random_lora"]


def random_lora(model: _native.Model, config: ModelConfig, rank: int) -> _native.Adapter:
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
