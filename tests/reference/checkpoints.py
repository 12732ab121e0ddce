"""Writes one model in each checkpoint format, with the libraries users' files come from.

Weights come under Meta's names, rotary pairs interleaved; what a format permutes is permuted here.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from .model import Config

Weights = Mapping[str, np.ndarray]

_HF_LAYER = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_GGUF_LAYER = {
    "attention.wq": "attn_q",
    "attention.wk": "attn_k",
    "attention.wv": "attn_v",
    "attention.wo": "attn_output",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
    "attention_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
}
_HF_OUTER = {
    "tok_embeddings": "model.embed_tokens",
    "norm": "model.norm",
    "output": "lm_head",
}
_GGUF_OUTER = {
    "tok_embeddings": "token_embd",
    "norm": "output_norm",
    "output": "output",
}
# The axis Meta's model-parallel shards split; everything else is repeated in each shard.
_SHARD_AXIS = {
    "tok_embeddings": 1,
    "output": 0,
    "wq": 0,
    "wk": 0,
    "wv": 0,
    "wo": 1,
    "w1": 0,
    "w2": 1,
    "w3": 0,
}


def _renamed(name: str, outer: dict[str, str], prefix: str, layer: dict[str, str]) -> str:
    stem, suffix = name.rsplit(".", 1)
    if not stem.startswith("layers."):
        return f"{outer[stem]}.{suffix}"
    _, index, rest = stem.split(".", 2)
    return f"{prefix}{index}.{layer[rest]}.{suffix}"


def hf_name(name: str) -> str:
    """`layers.0.attention.wq.weight` -> `model.layers.0.self_attn.q_proj.weight`."""
    return _renamed(name, _HF_OUTER, "model.layers.", _HF_LAYER)


def gguf_name(name: str) -> str:
    """`layers.0.attention.wq.weight` -> `blk.0.attn_q.weight`."""
    if name == "rope.divisors":
        return "rope_freqs.weight"
    return _renamed(name, _GGUF_OUTER, "blk.", _GGUF_LAYER)


def to_halves(config: Config, weights: Weights) -> dict[str, np.ndarray]:
    """The same model with the rows of q and k in Hugging Face's rotary order."""
    heads = {"wq": config.n_heads, "wk": config.n_kv_heads}
    out = {}
    for name, value in weights.items():
        kind = name.split(".")[-2]
        if kind in heads:
            rows = value.reshape(heads[kind], config.head_dim // 2, 2, *value.shape[1:])
            value = np.ascontiguousarray(rows.swapaxes(1, 2)).reshape(value.shape)
        out[name] = value
    return out


def hf_config(config: Config) -> dict[str, object]:
    """The keyword arguments of `LlamaConfig` (or `MistralConfig`) for `config`."""
    rope: dict[str, object] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.rope.kind != "none":
        rope |= {"rope_type": config.rope.kind, "factor": config.rope.factor}
    if config.rope.kind in ("llama3", "yarn"):
        rope["original_max_position_embeddings"] = config.rope.original_context
    if config.rope.kind == "llama3":
        rope["low_freq_factor"] = config.rope.low_freq_factor
        rope["high_freq_factor"] = config.rope.high_freq_factor
    if config.rope.kind == "yarn":
        rope["beta_fast"], rope["beta_slow"] = config.rope.beta_fast, config.rope.beta_slow
        rope["attention_factor"] = config.rope.attention_factor
        rope["truncate"] = config.rope.truncate
    options: dict[str, object] = {
        "hidden_size": config.dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.ffn_dim,
        "vocab_size": config.vocab_size,
        "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_context,
        "tie_word_embeddings": config.tied,
        "rope_parameters": rope,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if config.sliding_window:
        return options | {"sliding_window": config.sliding_window}
    return options | {"attention_bias": config.attention_bias, "mlp_bias": config.mlp_bias}


def hf_model(config: Config, weights: Weights):
    """A transformers model in float32 that holds `weights` (Mistral if it has a window)."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

    if config.sliding_window:
        model = MistralForCausalLM(MistralConfig(**hf_config(config)))
    else:
        model = LlamaForCausalLM(LlamaConfig(**hf_config(config)))
    state = {hf_name(n): torch.from_numpy(v) for n, v in to_halves(config, weights).items()}
    if config.tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, strict=True)
    return model.eval()


def hf_logits(model, ids: list[int]) -> np.ndarray:
    """What transformers says in float64: `[n, vocab]`."""
    import torch

    with torch.no_grad():
        return model.double()(torch.tensor([ids])).logits[0].numpy()


def write_hf(
    folder: Path,
    config: Config,
    weights: Weights,
    *,
    dtype: str = "float32",
    container: str = "safetensors",
    max_shard_size: str = "1GB",
    tokenizer: Path | None = None,
) -> Path:
    """A Hugging Face folder written by `save_pretrained`, or with pickled `.bin` shards."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    model = hf_model(config, weights).to(getattr(torch, dtype))
    model.config.dtype = dtype
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    if container == "bin":
        _rewrite_as_pickles(folder, model)
    if tokenizer:
        shutil.copyfile(tokenizer, folder / "tokenizer.model")
        settings = {
            "tokenizer_class": "LlamaTokenizer",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "add_bos_token": True,
            "add_eos_token": False,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def _rewrite_as_pickles(folder: Path, model) -> None:
    """Replaces the safetensors files by two `pytorch_model-*.bin` and their index."""
    import torch

    for file in folder.glob("*.safetensors*"):
        file.unlink()
    state = model.state_dict()
    names = list(state)
    halves = [names[: len(names) // 2], names[len(names) // 2 :]]
    index: dict[str, str] = {}
    for i, part in enumerate(halves, start=1):
        file = f"pytorch_model-{i:05d}-of-00002.bin"
        torch.save({name: state[name] for name in part}, folder / file)
        index |= dict.fromkeys(part, file)
    total = sum(t.numel() * t.element_size() for t in state.values())
    document = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(document, indent=2))


def meta_params(config: Config) -> dict[str, object]:
    """`params.json`: the width of the FFN is met by `multiple_of` and a multiplier."""
    params: dict[str, object] = {
        "dim": config.dim,
        "multiple_of": config.ffn_dim,
        "n_heads": config.n_heads,
        "n_layers": config.n_layers,
        "norm_eps": config.norm_eps,
        "vocab_size": -1,
    }
    if config.n_kv_heads != config.n_heads:
        params["n_kv_heads"] = config.n_kv_heads
    if config.rope_theta != 10000.0:
        params["rope_theta"] = config.rope_theta
    hidden = 2 * 4 * config.dim // 3
    if hidden > config.ffn_dim:
        params["ffn_dim_multiplier"] = config.ffn_dim / (hidden + 1)
    return params


def write_meta(
    folder: Path,
    config: Config,
    weights: Weights,
    *,
    dtype: str = "float16",
    shards: int = 1,
    embedding_axis: int = 1,
    tokenizer: Path | None = None,
) -> Path:
    """`params.json` and `consolidated.NN.pth`; the tensors of a shard are views of one storage.

    `embedding_axis`: 1 as LLaMA 1 and 2 split the embedding, 0 as Llama 3 does.
    """
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.json").write_text(json.dumps(meta_params(config)))
    for shard in range(shards):
        parts = {}
        for name, value in weights.items():
            kind = name.split(".")[-2]
            axis = embedding_axis if kind == "tok_embeddings" else _SHARD_AXIS.get(kind)
            part = value if axis is None else np.split(value, shards, axis=axis)[shard]
            parts[name] = torch.from_numpy(np.ascontiguousarray(part)).to(getattr(torch, dtype))
        storage = torch.cat([t.flatten() for t in parts.values()])
        state, at = {}, 0
        for name, t in parts.items():
            state[name] = storage[at : at + t.numel()].view(t.shape)
            at += t.numel()
        state["rope.freqs"] = torch.ones(config.head_dim // 2, dtype=getattr(torch, dtype))
        torch.save(state, folder / f"consolidated.{shard:02d}.pth")
    if tokenizer:
        shutil.copyfile(tokenizer, folder / "tokenizer.model")
    return folder


def write_gguf(
    path: Path,
    config: Config,
    weights: Weights,
    *,
    dtype: str | Callable[[str], str] = "f16",
    blocks: Mapping[str, tuple[str, np.ndarray]] | None = None,
    tokenizer: Path | None = None,
) -> Path:
    """A GGUF v3 written by the gguf package.

    Args:
        path: the file to write.
        config: the model's shape; only linear and yarn scaling have GGUF keys.
        weights: float32 tensors; 1-D ones are stored as F32.
        dtype: stored type of the matrices, or a function of the canonical name.
        blocks: ready-made bytes `[rows, row_bytes]` with their dtype, used instead of `weights`.
        tokenizer: a sentencepiece model whose pieces become the vocabulary.
    """
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_context)
    writer.add_embedding_length(config.dim)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.ffn_dim)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_vocab_size(config.vocab_size)
    _add_gguf_scaling(writer, config)
    if tokenizer:
        _add_gguf_vocabulary(writer, tokenizer)
    for name, value in weights.items():
        if blocks and name in blocks:
            stored, data = blocks[name]
        else:
            stored = "f32" if value.ndim == 1 else dtype if isinstance(dtype, str) else dtype(name)
            data = gguf.quants.quantize(value, _gguf_type(stored))
        writer.add_tensor(gguf_name(name), data, raw_dtype=_gguf_type(stored))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _gguf_type(dtype: str):
    import gguf

    return gguf.GGMLQuantizationType[dtype.upper()]


def _add_gguf_scaling(writer, config: Config) -> None:
    import gguf

    if config.rope.kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope.factor)
    elif config.rope.kind == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(config.rope.factor)
        writer.add_rope_scaling_orig_ctx_len(config.rope.original_context)


def _add_gguf_vocabulary(writer, tokenizer: Path) -> None:
    import gguf
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
    tokens, scores, types = [], [], []
    for i in range(pieces.vocab_size()):
        tokens.append(pieces.id_to_piece(i).encode())
        scores.append(pieces.get_score(i))
        kind = gguf.TokenType.NORMAL
        if pieces.is_unknown(i):
            kind = gguf.TokenType.UNKNOWN
        elif pieces.is_control(i):
            kind = gguf.TokenType.CONTROL
        elif pieces.is_byte(i):
            kind = gguf.TokenType.BYTE
        types.append(kind)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
