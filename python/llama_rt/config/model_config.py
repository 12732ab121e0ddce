"""The two records that say what a model is, and the checks that their numbers make sense."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llama_rt.errors import ConfigError

MAX_SIZE = 2**31 - 1  # every size travels as int32 somewhere below
MAX_NUMBER = (2 - 2**-23) * 2.0**127  # every other number as float32
_MIN_NUMBER = 2.0**-149  # the next to zero
_MAX_LAYERS = 2**14  # more than any model; bounds the work that a wrong number can cause


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary frequencies are stretched beyond the trained context.

    Attributes:
        kind: the rule; `dynamic` computes like `none` up to `ModelConfig.max_context`.
        factor: stretch, >= 1 for longer contexts.
        low_freq_factor: `llama3` only.
        high_freq_factor: `llama3` only.
        original_context: tokens before stretching; 0 when not given.
        beta_fast: `yarn` only, rotations.
        beta_slow: `yarn` only, rotations.
        attention_factor: multiplies cos and sin; already resolved.
        truncate: `yarn` only: round the correction range to whole dimensions.
        short_divisors: `longrope` only: of each frequency, for a context of up to
            `original_context` tokens.
        long_divisors: the same for a longer context.
    """

    kind: Literal["none", "linear", "llama3", "yarn", "dynamic", "longrope"] = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    truncate: bool = True
    short_divisors: tuple[float, ...] = ()
    long_divisors: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes and rules of one model; contexts and windows in tokens.

    `qk_norm`: an RMS norm of each head of q and k before rotation, as Qwen3 has. `attention_bias`:
    `"qkv"` is biases of q, k and v, but none of the output. `bare`: the file promises no output
    matrix.

    Raises:
        ConfigError: the numbers contradict each other or lie outside what can be computed.
    """

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_dim: int
    vocab_size: int
    norm_eps: float
    rope_theta: float = 10000.0
    rope_style: Literal["interleaved", "halves"] = "interleaved"
    rope_scaling: RopeScaling = RopeScaling()
    max_context: int = 2048
    sliding_window: int | None = None
    qk_norm: bool = False
    tie_embeddings: bool = False
    attention_bias: bool | Literal["qkv"] = False
    mlp_bias: bool = False
    bare: bool = False
    name: str = ""

    def __post_init__(self) -> None:
        """Checks that the numbers describe a model."""
        who = f"model {self.name!r}" if self.name else "model configuration"
        for field in (
            "dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "ffn_dim", "vocab_size",
            "max_context",
        ):  # fmt: skip
            value = getattr(self, field)
            limit = _MAX_LAYERS if field == "n_layers" else MAX_SIZE
            if not 1 <= value <= limit:
                msg = f"{who}: {field} must be between 1 and {limit}, not {value}"
                raise ConfigError(msg)
        if self.n_heads % self.n_kv_heads:
            msg = f"{who}: {self.n_heads} heads cannot share {self.n_kv_heads} key/value heads"
            raise ConfigError(msg)
        if self.head_dim % 2:
            msg = f"{who}: head_dim {self.head_dim} is odd; rotary pairs need an even one"
            raise ConfigError(msg)
        if max(self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim) > MAX_SIZE:
            msg = f"{who}: {self.n_heads} heads of width {self.head_dim} are beyond any memory"
            raise ConfigError(msg)
        if not 0 <= self.norm_eps <= MAX_NUMBER:
            msg = f"{who}: norm_eps must be a float32 number >= 0, not {self.norm_eps}"
            raise ConfigError(msg)
        if not _MIN_NUMBER <= self.rope_theta <= MAX_NUMBER:
            msg = f"{who}: rope_theta must be a float32 number > 0, not {self.rope_theta}"
            raise ConfigError(msg)
        if self.sliding_window is not None and not 1 <= self.sliding_window <= MAX_SIZE:
            msg = f"{who}: sliding_window must be at least 1, not {self.sliding_window}"
            raise ConfigError(msg)
        self._check_rope(who)

    def _check_rope(self, who: str) -> None:
        rope = self.rope_scaling
        for field in ("factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow",
                      "attention_factor"):  # fmt: skip
            value = getattr(rope, field)
            if not _MIN_NUMBER <= value <= MAX_NUMBER:
                msg = f"{who}: rope scaling {field} must be a float32 number > 0, not {value}"
                raise ConfigError(msg)
        if not 0 <= rope.original_context <= MAX_SIZE:
            msg = f"{who}: rope scaling original context {rope.original_context} is out of range"
            raise ConfigError(msg)
        if rope.kind in ("llama3", "yarn") and rope.original_context == 0:
            msg = f"{who}: rope scaling {rope.kind!r} needs the original context length"
            raise ConfigError(msg)
        if rope.kind == "llama3" and rope.high_freq_factor <= rope.low_freq_factor:
            msg = (
                f"{who}: rope scaling high_freq_factor {rope.high_freq_factor} must exceed "
                f"low_freq_factor {rope.low_freq_factor}"
            )
            raise ConfigError(msg)
        for divisors in (rope.short_divisors, rope.long_divisors):
            if rope.kind == "longrope" and len(divisors) != self.head_dim // 2:
                msg = (
                    f"{who}: rope scaling 'longrope' has {len(divisors)} factors, expected one for "
                    f"each of {self.head_dim // 2} frequencies"
                )
                raise ConfigError(msg)
        if rope.kind == "yarn" and self.rope_theta == 1.0:
            msg = f"{who}: rope scaling 'yarn' is undefined for rope_theta 1"
            raise ConfigError(msg)

    @property
    def default_context(self) -> int:
        """Tokens of context where none is asked for; a longer one changes longrope's divisors."""
        rope = self.rope_scaling
        return rope.original_context if rope.kind == "longrope" else self.max_context

    @property
    def kv_dim(self) -> int:
        """Width of one layer's keys (and of its values): `n_kv_heads * head_dim`."""
        return self.n_kv_heads * self.head_dim
