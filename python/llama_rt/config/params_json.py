"""Reading Meta's `params.json` as a `ModelConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from llama_rt.config.checked_keys import Keys
from llama_rt.config.model_config import MAX_SIZE, ModelConfig, RopeScaling


def feed_forward_width(dim: int, multiple_of: int, multiplier: float | None) -> int:
    """Hidden width of Meta's feed-forward block (llama `model.py`, class `FeedForward`).

    Two thirds of `4 * dim`, times `ffn_dim_multiplier` if given, rounded up to `multiple_of`.
    """
    hidden = int(2 * (4 * dim) / 3)
    if multiplier is not None:
        hidden = int(multiplier * hidden)
    return multiple_of * ((hidden + multiple_of - 1) // multiple_of)


_MISTRAL_CONTEXT = 32768  # tokens, of the files that do not say
# Keys of Mistral's files that change the graph, and how.
_REFUSED = {
    "moe": "a mixture of experts",
    "num_experts": "a mixture of experts",
    "vision_encoder": "images",
    "multimodal": "images or sound",
    "quantization": "quantized weights",
    "yarn": "rotation stretched by YaRN",
    "llama_4_scaling": "scores scaled by position",
    "ada_rms_norm_t_cond": "norms that depend on time",
    "is_mamba": "no attention",
}


def check_params(params: Mapping[str, object], source: Path | str = "params.json") -> None:
    """Refuses a model of another graph, before its tensors are named.

    Raises:
        ConfigError: names the key and what it stands for.
    """
    keys = Keys(params, source)
    if keys.get("model_type") == "mamba":
        keys.refuse("model_type", "says 'mamba' (no attention), which is not supported")
    for key, what in _REFUSED.items():
        if keys.get(key):
            keys.refuse(key, f"is there ({what}), which is not supported")


def from_meta(
    params: Mapping[str, object],
    *,
    source: Path | str = "params.json",
    vocab_size: int | None = None,
    ffn_dim: int | None = None,
    n_kv_heads: int | None = None,
    llama2: bool = False,
    attention_bias: bool = False,
    mlp_bias: bool = False,
) -> ModelConfig:
    """Reads Meta's `params.json`; absent keys take the defaults of Meta's `ModelArgs`.

    Args:
        params: the parsed file; a nested `"model"` object is unwrapped.
        source: named in errors.
        vocab_size: rows of the embedding, used when the file says -1.
        ffn_dim: rows of `w1`; wins over the width rule, which needs keys that some files lack.
        n_kv_heads: heads found in `wk`; wins over the file (key/value heads may be repeated).
        llama2: the tensors show a Llama 2 file, whose context is not in its params.
        attention_bias: the file has biases in its attention blocks (no release does).
        mlp_bias: the file has biases in its feed-forward blocks (no release does).

    Raises:
        ConfigError: a key is missing, of the wrong kind, or contradicts another.
    """
    nested = params.get("model")
    keys = Keys(nested if isinstance(nested, dict) else params, source)
    dim, n_heads = keys.integer("dim"), keys.integer("n_heads")
    if n_heads < 1 or dim < 1:
        keys.refuse("n_heads", f"{n_heads} does not fit dim {dim}")
    head_dim = keys.integer("head_dim", dim // n_heads)
    if keys.get("head_dim") is None and dim % n_heads:
        keys.refuse("n_heads", f"{n_heads} does not divide dim {dim}")
    vocab = keys.integer("vocab_size", -1)
    if vocab < 0:
        if vocab_size is None:
            keys.refuse("vocab_size", "is -1 and there is no embedding to take it from")
        vocab = vocab_size
    if ffn_dim is None:
        multiplier = keys.get("ffn_dim_multiplier")
        multiple_of = keys.integer("multiple_of", 256)
        if not 1 <= multiple_of <= MAX_SIZE or dim > MAX_SIZE:
            keys.refuse("multiple_of", f"must be a positive size, not {multiple_of}")
        factor = None if multiplier is None else keys.number("ffn_dim_multiplier")
        if factor is not None and not 0 < factor <= MAX_SIZE:
            keys.refuse("ffn_dim_multiplier", f"must be a factor > 0, not {factor}")
        ffn_dim = feed_forward_width(dim, multiple_of, factor)
    is_mistral = keys.get("hidden_dim") is not None
    window = keys.integer("sliding_window") if keys.get("sliding_window") is not None else None
    # mistral-inference: without windows, the base is a larger one.
    long_base = is_mistral and window is None
    theta = keys.number("rope_theta", 1e6 if long_base else 10000.0)
    scaled = keys.flag("use_scaled_rope")
    scaling = RopeScaling()
    if scaled:
        # The flag carries no numbers: Meta's code fixes them (llama-models `llama3/model.py`).
        scaling = RopeScaling(
            kind="llama3",
            factor=keys.number("rope_scaling_factor", 8.0),
            low_freq_factor=1.0,
            high_freq_factor=keys.number("rope_high_freq_factor", 4.0),
            original_context=8192,
        )
    trained = _meta_context(theta, scaled=scaled, llama2=llama2)
    context = keys.integer("max_position_embeddings", _MISTRAL_CONTEXT if is_mistral else trained)
    context = keys.integer("max_seq_len", context)
    with keys.naming():
        return ModelConfig(
            dim=dim,
            n_layers=keys.integer("n_layers"),
            n_heads=n_heads,
            n_kv_heads=n_kv_heads or keys.integer("n_kv_heads", n_heads),
            head_dim=head_dim,
            ffn_dim=ffn_dim,
            vocab_size=vocab,
            norm_eps=keys.number("norm_eps", 1e-5),
            rope_theta=theta,
            rope_style="interleaved",
            rope_scaling=scaling,
            max_context=min(context, MAX_SIZE),
            sliding_window=window,
            tie_embeddings=keys.flag("tied_embeddings"),
            attention_bias=attention_bias,
            mlp_bias=mlp_bias,
            name=keys.text("name"),
        )


def _meta_context(theta: float, *, scaled: bool, llama2: bool) -> int:
    """The context a release was trained for: `max_seq_len` is never in the file."""
    if scaled:
        return 131072  # Llama 3.1 and later
    if theta == 500000.0:
        return 8192  # Llama 3
    if theta == 1e6:
        return 16384  # Code Llama
    return 4096 if llama2 else 2048
