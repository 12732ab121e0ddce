"""Model shapes that between them use every branch of the graph, small enough for float64."""

import numpy as np

from .model import Config, Rope

GRAPHS = {
    "plain": Config(),
    "multi-head": Config(n_kv_heads=4),
    "one-kv-head": Config(n_kv_heads=1),
    "wide-heads": Config(head_dim=24),
    "narrow-heads": Config(dim=48, head_dim=4, n_heads=6, n_kv_heads=3),
    "odd-sizes": Config(
        dim=50, n_heads=5, n_kv_heads=5, head_dim=10, ffn_dim=83, n_layers=3, vocab_size=307
    ),
    "biases": Config(attention_bias=True, mlp_bias=True),
    "attention-bias": Config(attention_bias=True, head_dim=24),
    "tied": Config(tied=True),
    "linear": Config(rope=Rope("linear", factor=4.0)),
    "llama3": Config(rope=Rope("llama3", factor=8.0, original_context=64), rope_theta=5e5),
    "llama3-tied-gqa": Config(
        rope=Rope("llama3", factor=32.0, original_context=32),
        n_heads=8,
        n_kv_heads=2,
        tied=True,
        rope_theta=5e5,
    ),
    "yarn": Config(rope=Rope("yarn", factor=4.0, original_context=64, attention_factor=1.14)),
    "yarn-untruncated": Config(
        rope=Rope("yarn", factor=2.0, original_context=32, beta_fast=8.0, truncate=False)
    ),
    "window": Config(sliding_window=7),
    "tinyllama-like": Config(dim=128, n_heads=8, n_kv_heads=1, head_dim=16, ffn_dim=352),
    "other-eps": Config(norm_eps=1e-2, rope_theta=1e6),
    "one-layer": Config(n_layers=1, n_heads=1, n_kv_heads=1, head_dim=64),
}


def random_config(seed: int) -> Config:
    """Sizes and rules from `seed`: nothing is a multiple of anything but by chance."""
    rng = np.random.default_rng(seed)
    kv_heads = int(rng.integers(1, 5))
    original = int(rng.integers(16, 100))
    rope = {
        "none": Rope(),
        "linear": Rope("linear", factor=float(rng.uniform(1, 8))),
        "llama3": Rope("llama3", factor=float(rng.uniform(2, 32)), original_context=original),
        "yarn": Rope(
            "yarn",
            factor=float(rng.uniform(1, 8)),
            original_context=original,
            attention_factor=float(rng.uniform(0.8, 1.5)),
            truncate=bool(rng.integers(2)),
        ),
    }[str(rng.choice(["none", "linear", "llama3", "yarn"]))]
    return Config(
        dim=int(rng.integers(1, 150)),
        n_layers=int(rng.integers(1, 5)),
        n_heads=kv_heads * int(rng.integers(1, 9)),
        n_kv_heads=kv_heads,
        head_dim=2 * int(rng.integers(1, 50)),
        ffn_dim=int(rng.integers(1, 300)),
        vocab_size=int(rng.integers(300, 700)),
        norm_eps=float(rng.choice([1e-6, 1e-5, 1e-3])),
        rope_theta=float(rng.choice([1e4, 5e5, 1e6])),
        rope_style=["interleaved", "halves"][int(rng.integers(2))],
        rope=rope,
        sliding_window=int(rng.choice([0, 0, 1, 5, 33])),
        attention_bias=bool(rng.integers(2)),
        mlp_bias=bool(rng.integers(2)),
        tied=bool(rng.integers(2)),
    )
