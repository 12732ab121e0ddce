"""Tensor names: each format's spelling, the canonical (Meta's) one, and the shapes they need."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llama_rt.config import ModelConfig

__all__ = ["expected_tensors", "from_gguf_name", "from_hf_name", "from_meta_name", "to_gguf_name",
           "to_hf_name"]  # fmt: skip

# canonical inside a layer -> (Hugging Face, GGUF)
_LAYER = {
    "attention_norm": ("input_layernorm", "attn_norm"),
    "attention.wq": ("self_attn.q_proj", "attn_q"),
    "attention.wk": ("self_attn.k_proj", "attn_k"),
    "attention.wv": ("self_attn.v_proj", "attn_v"),
    "attention.wo": ("self_attn.o_proj", "attn_output"),
    "attention.q_norm": ("self_attn.q_norm", "attn_q_norm"),
    "attention.k_norm": ("self_attn.k_norm", "attn_k_norm"),
    "ffn_norm": ("post_attention_layernorm", "ffn_norm"),
    "feed_forward.w1": ("mlp.gate_proj", "ffn_gate"),
    "feed_forward.w2": ("mlp.down_proj", "ffn_down"),
    "feed_forward.w3": ("mlp.up_proj", "ffn_up"),
}
_OUTER = {
    "tok_embeddings.weight": ("model.embed_tokens.weight", "token_embd.weight"),
    "norm.weight": ("model.norm.weight", "output_norm.weight"),
    "output.weight": ("lm_head.weight", "output.weight"),
}
DIVISORS = "rope.divisors"

_FROM_META = {ours: ours for ours in _LAYER}
_FROM_HF = {hf: ours for ours, (hf, _) in _LAYER.items()}
_FROM_GGUF = {gguf: ours for ours, (_, gguf) in _LAYER.items()}
_OUTER_HF = {hf: ours for ours, (hf, _) in _OUTER.items()}
_OUTER_GGUF = {gguf: ours for ours, (_, gguf) in _OUTER.items()} | {"rope_freqs.weight": DIVISORS}

_META = re.compile(r"layers\.(\d{1,6})\.(.+)\.(weight|bias)")
_HF = re.compile(r"model\.layers\.(\d{1,6})\.(.+)\.(weight|bias)")
_GGUF = re.compile(r"blk\.(\d{1,6})\.(.+)\.(weight|bias)")

# Buffers that old writers stored; recomputed here from the configuration.
_IGNORED = re.compile(
    r"rope\.freqs|layers\.\d+\.attention\.inner_attention\.rope\.freqs"
    r"|(model\.)?(layers\.\d+\.self_attn\.)?rotary_emb\.\w+"
    r"|(model\.)?layers\.\d+\.self_attn\.(masked_bias|bias)"
    r"|blk\.\d+\.attn_rot_embd(\.\w+)?"
)


def ignored(name: str) -> bool:
    """True for stored buffers that carry no weights."""
    return _IGNORED.fullmatch(name) is not None


def _translate(pattern: re.Pattern[str], table: dict[str, str], name: str) -> str | None:
    match = pattern.fullmatch(name)
    if match is None or match[2] not in table or match[1] != str(int(match[1])):
        return None
    return f"layers.{match[1]}.{table[match[2]]}.{match[3]}"


def from_meta_name(name: str) -> str | None:
    """The name itself if it is one of Meta's, else None."""
    if name in _OUTER:
        return name
    return _translate(_META, _FROM_META, name)


def from_hf_name(name: str) -> str | None:
    """Canonical name of a Hugging Face tensor, or None."""
    return _OUTER_HF.get(name) or _translate(_HF, _FROM_HF, name)


def from_gguf_name(name: str) -> str | None:
    """Canonical name of a GGUF tensor, or None; fused projections have none."""
    return _OUTER_GGUF.get(name) or _translate(_GGUF, _FROM_GGUF, name)


def to_hf_name(name: str) -> str:
    """Hugging Face's name of a canonical one."""
    if name in _OUTER:
        return _OUTER[name][0]
    _, layer, rest = name.split(".", 2)
    inner, kind = rest.rsplit(".", 1)
    return f"model.layers.{layer}.{_LAYER[inner][0]}.{kind}"


def to_gguf_name(name: str) -> str:
    """GGUF's name of a canonical one."""
    if name in _OUTER:
        return _OUTER[name][1]
    if name == DIVISORS:
        return "rope_freqs.weight"
    _, layer, rest = name.split(".", 2)
    inner, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{_LAYER[inner][1]}.{kind}"


def layer_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of one layer's weights, `[out, in]`, by canonical name inside the layer."""
    d, f = config.dim, config.ffn_dim
    q, kv = config.n_heads * config.head_dim, config.kv_dim
    head_norms = {"attention.q_norm": (config.head_dim,), "attention.k_norm": (config.head_dim,)}
    return {
        "attention_norm": (d,),
        "attention.wq": (q, d),
        "attention.wk": (kv, d),
        "attention.wv": (kv, d),
        "attention.wo": (d, q),
        **(head_norms if config.qk_norm else {}),
        "ffn_norm": (d,),
        "feed_forward.w1": (f, d),
        "feed_forward.w3": (f, d),
        "feed_forward.w2": (d, f),
    }


def expected_tensors(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    """Name, shape and whether it must be there, in streaming order.

    Biases are required as far as the configuration promises them (`attention_bias` covers q, k, v
    and o, `"qkv"` all but o; `mlp_bias` gate, up and down); the output is not when it is tied to
    the embedding or the model is a bare one.
    """
    yield DIVISORS, (config.head_dim // 2,), False
    yield "tok_embeddings.weight", (config.vocab_size, config.dim), True
    shapes = layer_shapes(config)
    for layer in range(config.n_layers):
        for name, shape in shapes.items():
            yield f"layers.{layer}.{name}.weight", shape, True
            if len(shape) == 2:
                promised = config.attention_bias if "attention" in name else config.mlp_bias
                if promised == "qkv":
                    promised = name != "attention.wo"
                yield f"layers.{layer}.{name}.bias", shape[:1], bool(promised)
    yield "norm.weight", (config.dim,), True
    yield (
        "output.weight",
        (config.vocab_size, config.dim),
        not (config.tie_embeddings or config.bare),
    )
