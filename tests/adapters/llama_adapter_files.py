"""LLaMA-Adapter V1 and V2 as published: the files, and the formulas in float64."""

import numpy as np
import torch

from reference.model import attention, rms_norm, rope_tables, rotate, swiglu


def adapted(config, weights, ids, *, vectors=None, prefixes=None):
    """Logits by the formulas of llama/model.py and llama_adapter_v2_chat65b, in float64.

    vectors: Meta names of norms, `..._scale` and `..._bias`; prefixes: layer -> (rows, gate).
    """
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    extra = {name: value.astype(np.float64) for name, value in (vectors or {}).items()}
    w |= {name: value for name, value in extra.items() if name in w}
    cos, sin = rope_tables(config, len(ids))
    n, e, heads, groups = len(ids), config.head_dim, config.n_heads, config.n_kv_heads

    def linear(name, x):
        scaled = x * extra.get(f"{name}_scale", 1.0)
        return scaled @ w[f"{name}.weight"].T + extra.get(f"{name}_bias", 0.0)

    x = w["tok_embeddings.weight"][np.asarray(ids)]
    for i in range(config.n_layers):
        layer = f"layers.{i}."
        normed = rms_norm(x, w[f"{layer}attention_norm.weight"], config.norm_eps)
        q = rotate(linear(f"{layer}attention.wq", normed).reshape(n, heads, e), cos, sin,
                   config.rope_style)  # fmt: skip
        k = rotate(linear(f"{layer}attention.wk", normed).reshape(n, groups, e), cos, sin,
                   config.rope_style)  # fmt: skip
        v = linear(f"{layer}attention.wv", normed).reshape(n, groups, e)
        mixed = attention(q, k, v)
        if prefixes and i in prefixes:
            rows, gate = (part.astype(np.float64) for part in prefixes[i])
            keys = linear(f"{layer}attention.wk", rows).reshape(-1, groups, e)
            values = linear(f"{layer}attention.wv", rows).reshape(-1, groups, e)
            for head in range(heads):
                group = head * groups // heads
                scores = q[:, head] @ keys[:, group].T / np.sqrt(e)
                scores = np.exp(scores - scores.max(axis=1, keepdims=True))
                scores /= scores.sum(axis=1, keepdims=True)
                mixed[:, head] += gate[head] * (scores @ values[:, group])
        x = x + linear(f"{layer}attention.wo", mixed.reshape(n, -1))
        normed = rms_norm(x, w[f"{layer}ffn_norm.weight"], config.norm_eps)
        gate = linear(f"{layer}feed_forward.w1", normed)
        up = linear(f"{layer}feed_forward.w3", normed)
        x = x + linear(f"{layer}feed_forward.w2", swiglu(gate, up))
    return rms_norm(x, w["norm.weight"], config.norm_eps) @ w["output.weight"].T


def save_v1(path, config, *, length=10, adapted_layers=None, gate="heads", seed=0):
    """The flat dict of extract_adapter_from_checkpoint.py: all gates, the last layers' prefixes."""
    generator = torch.Generator().manual_seed(seed)
    layers = config.n_layers - 1 if adapted_layers is None else adapted_layers
    shape = (1, config.n_heads, 1, 1) if gate == "heads" else (1,)
    state = {"adapter_query.weight": torch.randn(length * layers, config.dim, generator=generator)}
    for i in range(config.n_layers):
        used = i >= config.n_layers - layers
        value = torch.randn(shape, generator=generator)
        # The trainer leaves the unused gates in half precision, at zero.
        state[f"layers.{i}.attention.gate"] = value if used else torch.zeros(shape).half()
    torch.save(state, path)
    first = config.n_layers - layers
    rows = state["adapter_query.weight"].numpy()
    gates = [state[f"layers.{i}.attention.gate"].numpy() for i in range(config.n_layers)]
    return {
        first + i: (
            rows[i * length : (i + 1) * length],
            np.broadcast_to(gates[first + i].reshape(-1), config.n_heads),
        )
        for i in range(layers)
    }


def save_v2(path, config, weights, *, prefixes=False, seed=0):
    """`{"model": ...}` of chat65B: unsharded scales, biases and norms."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, value in weights.items():
        if not name.startswith("layers."):
            continue
        if value.ndim == 1:
            state[name] = (1 + 0.2 * rng.standard_normal(value.shape)).astype(np.float32)
            continue
        stem = name.removesuffix(".weight")
        out, width = value.shape
        state[f"{stem}_scale"] = (1 + 0.2 * rng.standard_normal(width)).astype(np.float16)
        state[f"{stem}_bias"] = (0.2 * rng.standard_normal(out)).astype(np.float16)
    tensors = {name: torch.from_numpy(value) for name, value in state.items()}
    if prefixes:
        tensors["adapter_query.weight"] = torch.randn(10, config.dim)
        for i in range(config.n_layers):
            tensors[f"layers.{i}.attention.gate"] = torch.randn(1, config.n_heads, 1, 1)
    torch.save({"model": tensors}, path)
    return {name: tensor.numpy() for name, tensor in tensors.items()}
