"""A model's configuration as GGUF keys and, where no key exists, as rotary divisors.

GGUF's `llama` architecture knows linear and YaRN scaling with fixed betas; every other rule is a
fixed divisor per rotary frequency, which `rope_freqs.weight` holds (llama.cpp `llama-model.cpp`).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from llama_rt.config import ModelConfig, RopeScaling
from llama_rt.convert.gguf_writer import Value, floating, string, unsigned

__all__ = ["model_keys", "rotary_divisors"]

_QUANTIZATION_VERSION = 2


def model_keys(config: ModelConfig, name: str, file_type: int) -> dict[str, Value]:
    """Keys of architecture `llama`, rope scaling included."""
    keys = {
        "general.architecture": string("llama"),
        "general.type": string("model"),
        "general.name": string(name),
        "general.file_type": unsigned(file_type),
        "general.quantization_version": unsigned(_QUANTIZATION_VERSION),
        "llama.vocab_size": unsigned(config.vocab_size),
        "llama.context_length": unsigned(config.max_context),
        "llama.embedding_length": unsigned(config.dim),
        "llama.block_count": unsigned(config.n_layers),
        "llama.feed_forward_length": unsigned(config.ffn_dim),
        "llama.attention.head_count": unsigned(config.n_heads),
        "llama.attention.head_count_kv": unsigned(config.n_kv_heads),
        "llama.attention.key_length": unsigned(config.head_dim),
        "llama.attention.value_length": unsigned(config.head_dim),
        "llama.attention.layer_norm_rms_epsilon": floating(config.norm_eps),
        "llama.rope.dimension_count": unsigned(config.head_dim),
        "llama.rope.freq_base": floating(config.rope_theta),
    }
    return keys | _scaling_keys(config)


def _scaling_keys(config: ModelConfig) -> dict[str, Value]:
    rope = config.rope_scaling
    prefix = "llama.rope.scaling."
    if rope.kind == "linear":
        keys = {prefix + "type": string("linear"), prefix + "factor": floating(rope.factor)}
        if rope.attention_factor != 1.0:
            keys[prefix + "attn_factor"] = floating(rope.attention_factor)
        return keys
    if _is_plain_yarn(rope):
        built_in = 1.0 if rope.factor <= 1 else 0.1 * math.log(rope.factor) + 1.0
        keys = {
            prefix + "type": string("yarn"),
            prefix + "factor": floating(rope.factor),
            prefix + "original_context_length": unsigned(rope.original_context),
        }
        if not math.isclose(rope.attention_factor, built_in, rel_tol=1e-7):
            keys[prefix + "attn_factor"] = floating(rope.attention_factor / built_in)
        return keys
    if rope.attention_factor != 1.0:
        return {
            prefix + "type": string("none"),
            prefix + "attn_factor": floating(rope.attention_factor),
        }
    return {}


def _is_plain_yarn(rope: RopeScaling) -> bool:
    """YaRN as GGUF's runtime computes it: betas 32 and 1, whole dimensions."""
    return rope.kind == "yarn" and rope.beta_fast == 32 and rope.beta_slow == 1 and rope.truncate


def rotary_divisors(config: ModelConfig) -> npt.NDArray[np.float32] | None:
    """Divisors of the rotary frequencies `[head_dim / 2]`, or None where keys say it all."""
    rope = config.rope_scaling
    if rope.kind not in ("llama3", "yarn") or _is_plain_yarn(rope):
        return None
    half = config.head_dim // 2
    frequencies = config.rope_theta ** (-np.arange(half, dtype=np.float64) / half)
    if rope.kind == "llama3":
        kept = _llama3_kept(rope, frequencies)
    else:
        kept = _yarn_kept(rope, config.rope_theta, config.head_dim)
    # What is kept stays, the rest is stretched: the new frequency is w * ((1 - kept)/f + kept).
    return (1.0 / ((1.0 - kept) / rope.factor + kept)).astype(np.float32)


def _llama3_kept(
    rope: RopeScaling, frequencies: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Share of each frequency that stays (llama-models `llama3/model.py`, `apply_scaling`)."""
    rotations = rope.original_context * frequencies / (2 * math.pi)
    span = rope.high_freq_factor - rope.low_freq_factor
    kept: npt.NDArray[np.float64] = np.clip((rotations - rope.low_freq_factor) / span, 0.0, 1.0)
    return kept


def _yarn_kept(rope: RopeScaling, theta: float, head_dim: int) -> npt.NDArray[np.float64]:
    """Share of each frequency that stays (transformers `modeling_rope_utils.py`)."""

    def dimension(rotations: float) -> float:
        ratio = rope.original_context / (rotations * 2 * math.pi)
        return head_dim * math.log(ratio) / (2 * math.log(theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    ramp = (np.arange(head_dim // 2, dtype=np.float64) - low) / (high - low)
    kept: npt.NDArray[np.float64] = 1.0 - np.clip(ramp, 0.0, 1.0)
    return kept
