"""Hugging Face's `config.json`, in the spellings of 2023 and of today."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from llama_rt.config.checked_keys import Keys, shown, stretched
from llama_rt.config.hf_families import family_of
from llama_rt.config.model_config import MAX_SIZE, ModelConfig, RopeScaling


def from_hf(
    config: Mapping[str, object],
    *,
    source: Path | str = "config.json",
    vocab_size: int | None = None,
) -> ModelConfig:
    """Reads a Hugging Face `config.json` (`configuration_llama.py` and those of its relatives).

    Args:
        config: the parsed file.
        source: named in errors.
        vocab_size: rows of the embedding, used when the file says -1.

    Raises:
        ConfigError: an architecture, activation or rope rule that this runtime does not compute,
            or a key that is missing or of the wrong kind.
    """
    keys = Keys(config, source)
    family = family_of(keys)
    kind = family.kind
    mistral = kind == "mistral"
    _refuse_hf_variants(keys, kind)
    dim = keys.integer("hidden_size", 4096)
    n_heads = keys.integer("num_attention_heads", 32)
    if n_heads < 1 or dim < 1:
        keys.refuse("num_attention_heads", f"{n_heads} does not fit hidden_size {dim}")
    if keys.get("head_dim") is None and dim % n_heads:
        keys.refuse("num_attention_heads", f"{n_heads} does not divide hidden_size {dim}")
    vocab = keys.integer("vocab_size", 32000)
    if vocab < 0 and vocab_size is not None:
        vocab = vocab_size
    # A key that is absent has the class default; one that is null means "as many as heads".
    default_kv = 8 if mistral and "num_key_value_heads" not in config else n_heads
    positions = keys.integer(
        "max_position_embeddings",
        keys.integer("max_sequence_length", _POSITIONS.get(kind, 2048)),
    )
    if positions < 1:
        keys.refuse("max_position_embeddings", f"must be at least 1, not {positions}")
    positions = min(positions, MAX_SIZE)
    theta, scaling, context = _hf_rope(keys, positions)
    if scaling.kind in ("none", "linear"):
        # Older long-context files keep the base length and put the stretched one next to it.
        context = max(context, keys.integer("max_sequence_length", 0))
    window: int | None = None
    if mistral:
        window = keys.integer("sliding_window") if keys.get("sliding_window") is not None else None
        if "sliding_window" not in config:
            window = 4096
    elif kind == "phi3":
        window = keys.integer("sliding_window") if keys.get("sliding_window") is not None else None
    with keys.naming():
        return ModelConfig(
            dim=dim,
            n_layers=keys.integer("num_hidden_layers", 32),
            n_heads=n_heads,
            n_kv_heads=keys.integer("num_key_value_heads", default_kv),
            head_dim=keys.integer("head_dim", 128 if kind == "qwen3" else dim // n_heads),
            ffn_dim=keys.integer("intermediate_size", 14336 if mistral else 11008),
            vocab_size=vocab,
            norm_eps=keys.number("rms_norm_eps", 1e-6),
            rope_theta=theta,
            rope_style="halves",
            rope_scaling=scaling,
            max_context=min(context, MAX_SIZE),
            sliding_window=window,
            qk_norm=kind == "qwen3",
            tie_embeddings=keys.flag("tie_word_embeddings"),
            attention_bias=_attention_bias(keys, kind),
            mlp_bias=kind == "llama" and keys.flag("mlp_bias"),
            bare=family.bare,
            name=Path(keys.text("_name_or_path")).name,
        )


# Positions of a class whose file does not say.
_POSITIONS = {"mistral": 131072, "qwen2": 32768, "qwen3": 32768, "phi3": 4096}


def _attention_bias(keys: Keys, kind: str) -> bool | Literal["qkv"]:
    if kind == "qwen2":
        return "qkv"
    if kind == "internlm":
        return keys.flag("bias", default=True)
    return kind in ("llama", "qwen3", "Yi") and keys.flag("attention_bias")


def _refuse_hf_variants(keys: Keys, kind: str) -> None:
    """Refuses what would change the computation in a way this runtime does not follow."""
    activation = keys.text("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        keys.refuse("hidden_act", f"is {shown(activation)}; supported: silu (swish)")
    if kind in ("qwen2", "qwen3") and keys.flag("use_sliding_window"):
        keys.refuse("use_sliding_window", "is true; supported: full attention in every layer")
    if kind == "baichuan" and keys.get("max_position_embeddings") is None:
        keys.refuse(
            "max_position_embeddings",
            "is missing: Baichuan's 13B has biases by distance (ALiBi) in place of rotation, which "
            "is not supported",
        )
    if keys.number("partial_rotary_factor", 1.0) != 1.0:
        keys.refuse("partial_rotary_factor", "is not 1; supported: rotation of whole heads")


_BASE = 4096  # tokens; LLaMA's 2048, Llama 2's 4096
_ROPE_KINDS = "default, linear, dynamic, yarn, llama3"


def _hf_rope(keys: Keys, positions: int) -> tuple[float, RopeScaling, int]:
    """Base, scaling and usable context, from the old and the new spelling.

    Old files have `rope_theta` and `rope_scaling: {"type": ...}`; newer ones nest both in
    `rope_parameters: {"rope_type": ..., "rope_theta": ...}` (transformers, modeling_rope_utils).
    """
    raw = keys.get("rope_scaling", "rope_parameters")
    key = "rope_scaling" if keys.get("rope_scaling") is not None else "rope_parameters"
    theta = keys.number("rope_theta", 10000.0)
    if raw is None:
        return theta, RopeScaling(), positions
    if not isinstance(raw, dict):
        keys.refuse(key, f"must be an object, not {shown(raw)}")
    rope = Keys(raw, f"{keys.source}: {key}")
    nested = keys.get("rope_parameters")
    if isinstance(nested, dict):
        theta = Keys(nested, f"{keys.source}: rope_parameters").number("rope_theta", theta)
    theta = rope.number("rope_theta", theta)
    if rope.number("partial_rotary_factor", 1.0) != 1.0:
        rope.refuse("partial_rotary_factor", "is not 1; supported: rotation of whole heads")
    kind = rope.get("rope_type", "type")
    if kind in (None, "default", "none"):
        if any(isinstance(value, dict) for value in raw.values()):
            keys.refuse(key, "differs between layers, which is not supported")
        return theta, RopeScaling(), positions
    if kind == "linear":
        factor = rope.number("factor")
        rope.positive("factor", factor)
        base = rope.integer("original_max_position_embeddings", positions)
        # Above the lengths of the family's base models, the file's figure is the stretched one.
        context = positions if base == positions > _BASE else stretched(base, factor, positions)
        return theta, RopeScaling(kind="linear", factor=factor), context
    if kind == "dynamic":
        # Equal to the plain rule up to the trained length; beyond it the base changes at
        # every step and cached keys would be wrong, so the context ends there.
        factor = rope.number("factor", 1.0)
        scaling = RopeScaling(kind="dynamic", factor=factor, original_context=positions)
        return theta, scaling, positions
    if kind == "llama3":
        original = rope.integer("original_max_position_embeddings", positions)
        scaling = RopeScaling(
            kind="llama3",
            factor=rope.number("factor"),
            low_freq_factor=rope.number("low_freq_factor", 1.0),
            high_freq_factor=rope.number("high_freq_factor", 4.0),
            original_context=original,
        )
        return theta, scaling, positions
    if kind in ("longrope", "su") and keys.get("model_type") == "phi3":
        return theta, _hf_longrope(keys, rope, positions), positions
    if kind != "yarn":
        rope.refuse("rope_type", f"is {shown(kind)}, not supported; supported: {_ROPE_KINDS}")
    scaling = _hf_yarn(rope, positions)
    return theta, scaling, stretched(scaling.original_context, scaling.factor, positions)


def _hf_longrope(keys: Keys, rope: Keys, positions: int) -> RopeScaling:
    """Phi-3's rule: divisors of its own for each frequency, and one factor on cos and sin.

    `attention_factor` if given, else sqrt(1 + ln(factor) / ln(original)) (transformers
    `modeling_rope_utils.py`).
    """
    original = rope.integer(
        "original_max_position_embeddings",
        keys.integer("original_max_position_embeddings", positions),
    )
    if original < 2:
        rope.refuse("original_max_position_embeddings", f"must be >= 2, not {original}")
    factor = rope.number("factor", positions / original)
    default = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return RopeScaling(
        kind="longrope",
        factor=factor,
        original_context=original,
        attention_factor=rope.number("attention_factor", default),
        short_divisors=rope.numbers("short_factor"),
        long_divisors=rope.numbers("long_factor"),
    )


def _hf_yarn(rope: Keys, positions: int) -> RopeScaling:
    """YaRN's numbers with the factor on cos and sin resolved.

    `attention_factor` if given, else from `mscale` and `mscale_all_dim` when both are set and not
    zero, else `0.1 ln(factor) + 1` (transformers `modeling_rope_utils.py`).
    """
    original = rope.integer("original_max_position_embeddings", positions)
    if original < 1:
        rope.refuse("original_max_position_embeddings", f"must be >= 1, not {original}")
    factor = rope.number("factor", positions / original)
    rope.positive("factor", factor)

    def magnitude(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    mscale, mscale_all = rope.number("mscale", 0.0), rope.number("mscale_all_dim", 0.0)
    default = magnitude(1.0)
    if mscale and mscale_all:
        divisor = magnitude(mscale_all)
        if not divisor:
            rope.refuse("mscale_all_dim", "makes the attention factor infinite")
        default = magnitude(mscale) / divisor
    return RopeScaling(
        kind="yarn",
        factor=factor,
        original_context=original,
        beta_fast=rope.number("beta_fast", 0.0) or 32.0,
        beta_slow=rope.number("beta_slow", 0.0) or 1.0,
        attention_factor=rope.number("attention_factor", default),
        truncate=rope.flag("truncate", default=True),
    )
