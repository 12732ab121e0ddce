"""The keys of a GGUF file of architecture `llama`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from llama_rt.config.checked_keys import Keys, shown, stretched
from llama_rt.config.model_config import MAX_SIZE, ModelConfig, RopeScaling


def from_gguf(
    metadata: Mapping[str, object],
    *,
    source: Path | str = "GGUF file",
    vocab_size: int | None = None,
    ffn_dim: int | None = None,
    tied: bool = False,
    attention_bias: bool = False,
    mlp_bias: bool = False,
) -> ModelConfig:
    """Reads the keys of a GGUF file of architecture `llama` (llama.cpp `llama-model.cpp`).

    Args:
        metadata: the file's keys.
        source: named in errors.
        vocab_size: rows of `token_embd.weight`.
        ffn_dim: width of the first feed-forward block, should the key be absent.
        tied: the file has no `output.weight`.
        attention_bias: the file has biases in its attention blocks.
        mlp_bias: the file has biases in its feed-forward blocks.

    Raises:
        ConfigError: another architecture, layers of differing sizes, or a key that is missing.
    """
    keys = Keys(metadata, source)
    architecture = keys.text("general.architecture")
    if architecture != "llama":
        found = shown(architecture) if architecture else "missing"
        keys.refuse("general.architecture", f"is {found}; supported: 'llama'")
    if keys.integer("llama.expert_count", 0):
        keys.refuse("llama.expert_count", "is not 0; mixtures of experts are not supported")
    if not keys.flag("llama.attention.causal", default=True):
        keys.refuse("llama.attention.causal", "is false; supported: attention to what came before")
    dim = keys.integer("llama.embedding_length")
    n_heads = _uniform(keys, "llama.attention.head_count")
    if n_heads is None or n_heads < 1 or dim < 1:
        keys.refuse("llama.attention.head_count", f"is {n_heads} for a width of {dim}")
    head_dim = keys.integer("llama.attention.key_length", dim // n_heads)
    if keys.integer("llama.attention.value_length", dim // n_heads) != head_dim:
        keys.refuse("llama.attention.value_length", f"must equal key_length {head_dim}")
    if keys.integer("llama.rope.dimension_count", head_dim) != head_dim:
        keys.refuse("llama.rope.dimension_count", f"must equal the head width {head_dim}")
    width = _uniform(keys, "llama.feed_forward_length") or ffn_dim
    if width is None:
        keys.refuse("llama.feed_forward_length", "is missing")
    if vocab_size is None:
        vocab_size = keys.integer("llama.vocab_size")
    context = keys.integer("llama.context_length")
    scaling, context = _gguf_rope(keys, context)
    with keys.naming():
        return ModelConfig(
            dim=dim,
            n_layers=keys.integer("llama.block_count"),
            n_heads=n_heads,
            n_kv_heads=_uniform(keys, "llama.attention.head_count_kv") or n_heads,
            head_dim=head_dim,
            ffn_dim=width,
            vocab_size=vocab_size,
            norm_eps=keys.number("llama.attention.layer_norm_rms_epsilon"),
            rope_theta=keys.number("llama.rope.freq_base", 10000.0),
            rope_style="interleaved",
            rope_scaling=scaling,
            max_context=min(context, MAX_SIZE),
            tie_embeddings=tied,
            attention_bias=attention_bias,
            mlp_bias=mlp_bias,
            name=keys.text("general.name"),
        )


def _uniform(keys: Keys, key: str) -> int | None:
    """A number that may be written once or per layer; layers that differ are refused."""
    value = keys.get(key)
    if not isinstance(value, list):
        return None if value is None else keys.integer(key)
    if not value or any(item != value[0] for item in value):
        keys.refuse(key, "differs between layers, which is not supported")
    first = value[0]
    if isinstance(first, bool) or not isinstance(first, int):
        keys.refuse(key, f"must hold integers, not {shown(first)}")
    return first


def _gguf_rope(keys: Keys, context: int) -> tuple[RopeScaling, int]:
    """Scaling and usable context; an absent type means linear, an absent or zero factor 1."""
    factor = keys.number("llama.rope.scaling.factor", 0.0) or keys.number(
        "llama.rope.scale_linear", 1.0
    )
    factor = factor or 1.0
    keys.positive("llama.rope.scaling.factor", factor)
    kind = keys.text("llama.rope.scaling.type", "linear")
    attention = keys.number("llama.rope.scaling.attn_factor", 1.0)
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return RopeScaling(attention_factor=attention), context
    original = keys.integer("llama.rope.scaling.original_context_length", context)
    if kind == "linear":
        scaling = RopeScaling(kind="linear", factor=factor, attention_factor=attention)
        if keys.get("llama.rope.scaling.original_context_length") is None:
            return scaling, context  # converters write the stretched length
        return scaling, stretched(original, factor, context)
    if kind != "yarn":
        keys.refuse("llama.rope.scaling.type", f"is {shown(kind)}; supported: none, linear, yarn")
    scaling = RopeScaling(
        kind="yarn",
        factor=factor,
        original_context=original,
        attention_factor=attention * (1.0 if factor <= 1 else 0.1 * math.log(factor) + 1.0),
    )
    return scaling, stretched(original, factor, context)
