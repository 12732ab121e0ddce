"""Model shapes that between them use every branch of the graph, small enough for float64."""

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
