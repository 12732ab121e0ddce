"""Tensors of relatives that spell LLaMA's layers otherwise: fused projections, other norms' names.

Baichuan has q, k and v in `W_pack`, Phi-3 in `qkv_proj`, and gate and up in `gate_up_proj`; Yi's
first files call the norms `ln1` and `ln2`. The rows are used where they are, without a copy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from llama_rt.checkpoint.computed import Floats, MakeRows, computed_record, stored_rows
from llama_rt.config import ModelConfig
from llama_rt.errors import CheckpointError
from llama_rt.formats.records import TensorRecord

__all__ = ["normalized_rows", "unfused"]

_QKV = re.compile(r"(.*self_attn)\.(?:W_pack|qkv_proj)\.(weight|bias)")
_GATE_UP = re.compile(r"(.*mlp)\.gate_up_proj\.(weight|bias)")
_NORMS = {"ln1": "input_layernorm", "ln2": "post_attention_layernorm"}
_NORM = re.compile(r"(model\.layers\.\d+)\.(ln1|ln2)\.weight")
_TINY = 1e-12  # torch's `normalize` divides by no less


def unfused(raw: Mapping[str, TensorRecord], config: ModelConfig) -> dict[str, TensorRecord]:
    """Returns the tensors under the names that LLaMA's own files have.

    Raises:
        CheckpointError: a fused projection has another number of rows than the configuration says.
    """
    q, kv, f = config.n_heads * config.head_dim, config.kv_dim, config.ffn_dim
    tensors: dict[str, TensorRecord] = {}
    for name, record in raw.items():
        if match := _QKV.fullmatch(name):
            parts = {"q_proj": q, "k_proj": kv, "v_proj": kv}
        elif match := _GATE_UP.fullmatch(name):
            parts = {"gate_proj": f, "up_proj": f}
        elif match := _NORM.fullmatch(name):
            name = f"{match[1]}.{_NORMS[match[2]]}.weight"
            tensors[name] = replace(record, name=name)
            continue
        else:
            tensors[name] = record
            continue
        twice = next((part for part in parts if f"{match[1]}.{part}.{match[2]}" in raw), None)
        if twice:
            msg = f"{record.file}: both {name!r} and its {twice} are there"
            raise CheckpointError(msg)
        if not record.shape or record.shape[0] != sum(parts.values()):
            msg = (
                f"{record.file}: tensor {name!r} has shape {list(record.shape)}; the configuration "
                f"asks for {sum(parts.values())} rows ({', '.join(parts)})"
            )
            raise CheckpointError(msg)
        start = 0
        for part, rows in parts.items():
            own = f"{match[1]}.{part}.{match[2]}"
            tensors[own] = record.rows(start, start + rows, own)
            start += rows
    return tensors


def normalized_rows(record: TensorRecord) -> TensorRecord:
    """Returns a matrix with each row scaled to length 1, as Baichuan 2's output is used."""

    def prepare() -> MakeRows:
        stored = stored_rows(record)

        def make(start: int, stop: int) -> Floats:
            rows = stored(start, stop).astype(np.float64)
            lengths = np.linalg.norm(rows, axis=1, keepdims=True)
            scaled: Floats = (rows / np.maximum(lengths, _TINY)).astype(np.float32)
            return scaled

        return make

    return computed_record(record.name, record.file, record.dtype, record.shape, prepare)
