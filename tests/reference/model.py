"""LLaMA's forward pass in float64 numpy, written from the formulas, for the tests to compare with.

It shares nothing with the package under test: no code, no config class, no weight layout beyond
Meta's tensor names. Speed does not matter here; being plainly right does.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Rope:
    """One rope scaling rule with its numbers."""

    kind: Literal["none", "linear", "llama3", "yarn"] = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    truncate: bool = True


@dataclass(frozen=True)
class Config:
    """Everything the graph needs to know besides its weights."""

    dim: int = 64
    n_layers: int = 2
    n_heads: int = 4
    n_kv_heads: int = 2
    head_dim: int = 16
    ffn_dim: int = 96
    vocab_size: int = 512
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_style: Literal["interleaved", "halves"] = "interleaved"
    rope: Rope = field(default_factory=Rope)
    sliding_window: int = 0
    max_context: int = 256
    attention_bias: bool = False
    mlp_bias: bool = False
    tied: bool = False

    def native_options(self) -> dict[str, object]:
        """The keyword arguments of the native model for this configuration."""
        return {
            "dim": self.dim,
            "n_layers": self.n_layers,
            "n_heads": self.n_heads,
            "n_kv_heads": self.n_kv_heads,
            "head_dim": self.head_dim,
            "ffn_dim": self.ffn_dim,
            "vocab_size": self.vocab_size,
            "norm_eps": self.norm_eps,
            "rope_theta": self.rope_theta,
            "rope_style": self.rope_style,
            "rope_scaling": self.rope.kind,
            "rope_factor": self.rope.factor,
            "rope_low_freq_factor": self.rope.low_freq_factor,
            "rope_high_freq_factor": self.rope.high_freq_factor,
            "rope_original_context": self.rope.original_context,
            "rope_beta_fast": self.rope.beta_fast,
            "rope_beta_slow": self.rope.beta_slow,
            "rope_attention_factor": self.rope.attention_factor,
            "rope_truncate": self.rope.truncate,
            "sliding_window": self.sliding_window,
        }


def tensor_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape, in the order a checkpoint lists them."""
    q, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (config.vocab_size, config.dim)}
    for i in range(config.n_layers):
        layer = f"layers.{i}."
        shapes[f"{layer}attention_norm.weight"] = (config.dim,)
        attention = {"wq": (q, config.dim), "wk": (kv, config.dim), "wv": (kv, config.dim)}
        for name, shape in {**attention, "wo": (config.dim, q)}.items():
            shapes[f"{layer}attention.{name}.weight"] = shape
            if config.attention_bias:
                shapes[f"{layer}attention.{name}.bias"] = shape[:1]
        shapes[f"{layer}ffn_norm.weight"] = (config.dim,)
        up, down = (config.ffn_dim, config.dim), (config.dim, config.ffn_dim)
        for name, shape in {"w1": up, "w2": down, "w3": up}.items():
            shapes[f"{layer}feed_forward.{name}.weight"] = shape
            if config.mlp_bias:
                shapes[f"{layer}feed_forward.{name}.bias"] = shape[:1]
    shapes["norm.weight"] = (config.dim,)
    if not config.tied:
        shapes["output.weight"] = (config.vocab_size, config.dim)
    return shapes


def random_weights(config: Config, seed: int = 0, spread: float = 1.0) -> dict[str, np.ndarray]:
    """Seeded float32 weights, exact in half precision; matrices deviate by `spread / sqrt(k)`.

    At 1 every layer matters and attention is sharp, which also amplifies roundings; trained models
    are nearer to a half.
    """
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in tensor_shapes(config).items():
        if name.endswith("norm.weight"):
            value = 1.0 + 0.1 * rng.standard_normal(shape)
        elif name.endswith(".bias"):
            value = 0.1 * rng.standard_normal(shape)
        else:
            value = spread * rng.standard_normal(shape) / np.sqrt(shape[-1])
        weights[name] = value.astype(np.float16).astype(np.float32)
    return weights


def inverse_frequencies(config: Config, divisors: np.ndarray | None = None) -> np.ndarray:
    """Radians per position of each pair, float64 `[head_dim/2]`, after scaling."""
    d, rope = config.head_dim, config.rope
    omega = config.rope_theta ** (-np.arange(0, d, 2, dtype=np.float64) / d)
    if divisors is not None:
        omega = omega / divisors.astype(np.float64)
    if rope.kind == "linear":
        return omega / rope.factor
    if rope.kind == "llama3":
        return _llama3(omega, rope)
    if rope.kind == "yarn":
        return _yarn(omega, config)
    return omega


def _llama3(omega: np.ndarray, rope: Rope) -> np.ndarray:
    wavelength = 2 * np.pi / omega
    low, high = rope.low_freq_factor, rope.high_freq_factor
    smooth = (rope.original_context / wavelength - low) / (high - low)
    mixed = (1 - smooth) * omega / rope.factor + smooth * omega
    scaled = np.where(wavelength > rope.original_context / low, omega / rope.factor, mixed)
    return np.where(wavelength < rope.original_context / high, omega, scaled)


def _yarn(omega: np.ndarray, config: Config) -> np.ndarray:
    d, rope = config.head_dim, config.rope

    def corner(rotations: float) -> float:
        turns = np.log(rope.original_context / (rotations * 2 * np.pi))
        return d * turns / (2 * np.log(config.rope_theta))

    low, high = corner(rope.beta_fast), corner(rope.beta_slow)
    if rope.truncate:
        low, high = np.floor(low), np.ceil(high)
    low, high = max(low, 0.0), min(high, d - 1.0)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(d // 2) - low) / (high - low), 0, 1)
    return ramp * omega / rope.factor + (1 - ramp) * omega


def rope_tables(
    config: Config, positions: int, divisors: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines `[positions, head_dim/2]`, the attention factor included."""
    angle = np.outer(np.arange(positions), inverse_frequencies(config, divisors))
    factor = config.rope.attention_factor
    return np.cos(angle) * factor, np.sin(angle) * factor


def rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, style: str) -> np.ndarray:
    """Rotates the pairs of `x` `[n, heads, d]` by `cos`, `sin` `[n, d/2]`."""
    c, s = cos[:, None, :], sin[:, None, :]
    out = np.empty_like(x)
    if style == "interleaved":
        a, b = x[..., 0::2], x[..., 1::2]
        out[..., 0::2], out[..., 1::2] = a * c - b * s, a * s + b * c
    else:
        half = x.shape[-1] // 2
        a, b = x[..., :half], x[..., half:]
        out[..., :half], out[..., half:] = a * c - b * s, a * s + b * c
    return out


def rms_norm(x: np.ndarray, gain: np.ndarray, eps: float) -> np.ndarray:
    """`x` over its root mean square, times `gain`."""
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * gain


def swiglu(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    """`silu(gate) * up`."""
    return gate / (1 + np.exp(-gate)) * up


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, window: int = 0) -> np.ndarray:
    """Causal grouped attention: `q` `[n, h, e]` are the last n of the t positions of `k`, `v`."""
    n, heads, width = q.shape
    t, kv_heads, _ = k.shape
    group = heads // kv_heads
    query = np.arange(t - n, t)[:, None]
    key = np.arange(t)[None, :]
    seen = key <= query
    if window > 0:
        seen &= key > query - window
    out = np.empty_like(q)
    for head in range(heads):
        scores = q[:, head] @ k[:, head // group].T / np.sqrt(width)
        scores = np.where(seen, scores, -np.inf)
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        out[:, head] = scores / scores.sum(axis=1, keepdims=True) @ v[:, head // group]
    return out


def forward(config: Config, weights: dict[str, np.ndarray], ids: list[int]) -> np.ndarray:
    """Logits float64 `[n, vocab]` of `ids` in a fresh context, no BOS added."""
    states = hidden_states(config, weights, ids)
    output = weights.get("output.weight", weights["tok_embeddings.weight"])
    return states @ output.astype(np.float64).T


def hidden_states(config: Config, weights: dict[str, np.ndarray], ids: list[int]) -> np.ndarray:
    """The last layer's normed states, float64 `[n, dim]`."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    cos, sin = rope_tables(config, len(ids), weights.get("rope.divisors"))
    x = w["tok_embeddings.weight"][np.asarray(ids)]
    for i in range(config.n_layers):
        x = x + _attention_block(config, w, f"layers.{i}.", x, cos, sin)
        x = x + _ffn_block(config, w, f"layers.{i}.", x)
    return rms_norm(x, w["norm.weight"], config.norm_eps)


def _linear(w: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)


def _attention_block(
    config: Config,
    w: dict[str, np.ndarray],
    layer: str,
    x: np.ndarray,
    cos: np.ndarray,
    sin: np.ndarray,
) -> np.ndarray:
    n, e = len(x), config.head_dim
    normed = rms_norm(x, w[f"{layer}attention_norm.weight"], config.norm_eps)
    q = _linear(w, f"{layer}attention.wq", normed).reshape(n, config.n_heads, e)
    k = _linear(w, f"{layer}attention.wk", normed).reshape(n, config.n_kv_heads, e)
    v = _linear(w, f"{layer}attention.wv", normed).reshape(n, config.n_kv_heads, e)
    q, k = (rotate(z, cos, sin, config.rope_style) for z in (q, k))
    mixed = attention(q, k, v, config.sliding_window)
    return _linear(w, f"{layer}attention.wo", mixed.reshape(n, -1))


def _ffn_block(config: Config, w: dict[str, np.ndarray], layer: str, x: np.ndarray) -> np.ndarray:
    normed = rms_norm(x, w[f"{layer}ffn_norm.weight"], config.norm_eps)
    gate = _linear(w, f"{layer}feed_forward.w1", normed)
    up = _linear(w, f"{layer}feed_forward.w3", normed)
    return _linear(w, f"{layer}feed_forward.w2", swiglu(gate, up))


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    """||got - expected|| / ||expected|| over all elements, in float64."""
    expected = expected.astype(np.float64)
    return float(np.linalg.norm(got.astype(np.float64) - expected) / np.linalg.norm(expected))
