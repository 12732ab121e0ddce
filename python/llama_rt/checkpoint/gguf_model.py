"""A LLaMA model in a GGUF file: keys to configuration, tensors to canonical names."""

from __future__ import annotations

import re
from pathlib import Path

from llama_rt.checkpoint.assemble import rename, verify
from llama_rt.checkpoint.checkpoint import Checkpoint
from llama_rt.checkpoint.names import from_gguf_name, to_gguf_name
from llama_rt.config import ModelConfig, from_gguf
from llama_rt.errors import CheckpointError
from llama_rt.formats.gguf import read_gguf
from llama_rt.formats.records import TensorRecord

__all__ = ["open_gguf"]

_FUSED = re.compile(r"blk\.(\d{1,6})\.attn_qkv\.(weight|bias)")


def open_gguf(path: Path) -> Checkpoint:
    """Opens a GGUF file (all parts, if it was split) of architecture `llama`.

    Raises:
        CheckpointError: damaged, or tensors that do not fit the keys.
        ConfigError: another architecture, or keys that do not describe a model.
    """
    file = read_gguf(path)
    kind = file.metadata.get("general.type", "model")
    if kind != "model":
        what = "give it as `adapters`" if kind == "adapter" else "it holds no model"
        msg = f"{path}: general.type is {str(kind)[:40]!r}; {what}"
        raise CheckpointError(msg)
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        msg = f"{path}: missing tensors: token_embd.weight"
        raise CheckpointError(msg)
    biased = [name for name in file.tensors if name.endswith(".bias")]
    gate = file.tensors.get("blk.0.ffn_gate.weight")
    config = from_gguf(
        file.metadata,
        source=path,
        vocab_size=embedding.shape[0] if embedding.shape else None,
        ffn_dim=gate.shape[0] if gate is not None and gate.shape else None,
        tied="output.weight" not in file.tensors,
        attention_bias=any(".attn_" in name for name in biased),
        mlp_bias=any(".ffn_" in name for name in biased),
    )
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list) and len(tokens) > config.vocab_size:
        msg = f"{path}: {len(tokens)} tokens, but 'token_embd.weight' has {config.vocab_size} rows"
        raise CheckpointError(msg)
    tensors = rename(_split_fused(file.tensors, config), from_gguf_name)
    tensors = verify(tensors, config, path, to_gguf_name, optional_biases=True)
    return Checkpoint(path, "gguf", config, tensors, file.metadata, file.files)


def _split_fused(tensors: dict[str, TensorRecord], config: ModelConfig) -> dict[str, TensorRecord]:
    """q, k and v as rows of a fused projection, without a copy."""
    q, kv = config.n_heads * config.head_dim, config.kv_dim
    parts = {"attn_q": (0, q), "attn_k": (q, q + kv), "attn_v": (q + kv, q + 2 * kv)}
    split: dict[str, TensorRecord] = {}
    for name, record in tensors.items():
        match = _FUSED.fullmatch(name)
        if match is None:
            split[name] = record
            continue
        if not record.shape or record.shape[0] != q + 2 * kv:
            msg = (
                f"{record.file}: tensor {name!r} has shape {list(record.shape)}, "
                f"expected {q + 2 * kv} rows of q, k and v"
            )
            raise CheckpointError(msg)
        for part, (start, stop) in parts.items():
            new = f"blk.{match[1]}.{part}.{match[2]}"
            if new in tensors:
                msg = f"{record.file}: both {name!r} and {new!r} are there"
                raise CheckpointError(msg)
            split[new] = record.rows(start, stop, new)
    return split
