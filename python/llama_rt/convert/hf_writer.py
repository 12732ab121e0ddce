"""Writing a Hugging Face folder: config.json and one model.safetensors, streamed."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from llama_rt.checkpoint.checkpoint import Checkpoint
from llama_rt.checkpoint.computed import Order, to_half_split
from llama_rt.checkpoint.names import DIVISORS, expected_tensors, to_hf_name
from llama_rt.config import ModelConfig, RopeScaling
from llama_rt.convert.gguf_metadata import rotary_divisors
from llama_rt.convert.output import new_file, require_parent
from llama_rt.convert.rewrite import Constant, OutTensor, Rewritten, streamed
from llama_rt.errors import CheckpointError
from llama_rt.files import kind_of
from llama_rt.formats.safetensors import SAFETENSORS_NAMES
from llama_rt.tokenizer import find_tokenizer, load_tokenizer

__all__ = ["hf_config", "write_hf_folder", "write_safetensors_file"]

_CODES = {ours: theirs for theirs, ours in SAFETENSORS_NAMES.items()}
_TORCH = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
# What Llama 3.1 and 3.2 publish: factor; low 1, high 4, 8192 tokens throughout.
_LLAMA3_ORIGINAL = 8192
_TOKENIZER_FILES = (
    "tokenizer.model", "tokenizer.json", "tekken.json", "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json", "generation_config.json", "chat_template.jinja", "chat_template.json",
)  # fmt: skip


def write_hf_folder(
    checkpoint: Checkpoint,
    folder: Path,
    format: str,
    notes: list[str],
    advance: Callable[[int], object] = lambda _: None,
) -> tuple[int, int]:
    """Makes a folder that transformers and this runtime load; complete or not at all.

    Args:
        checkpoint: the source.
        folder: a name that does not exist yet.
        format: type of the matrices, `"f32"`, `"f16"` or `"bf16"`.
        notes: gains a sentence for what the folder lacks.
        advance: told the number of data bytes after each piece.

    Returns:
        Bytes and number of tensors.

    Raises:
        CheckpointError: the folder exists or cannot be written, or the model has a rule that
            config.json cannot express.
    """
    from llama_rt.convert.proof import prove_folder  # it needs much that importing us must not

    if kind_of(folder) != "nothing":
        msg = f"{folder}: exists; folders are not replaced"
        raise CheckpointError(msg)
    config = _with_llama3(checkpoint)
    tensors = _hf_tensors(checkpoint, config, format)
    written = hf_config(config, format)
    text = json.dumps(written, indent=2) + "\n"
    require_parent(folder)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")
    try:
        temporary.mkdir()
        (temporary / "config.json").write_text(text, encoding="utf-8")
        write_safetensors_file(temporary / "model.safetensors", tensors, advance=advance)
        _write_tokenizer(checkpoint, temporary, notes)
        prove_folder(checkpoint, temporary, written, folder)
        temporary.rename(folder)
    except OSError as error:
        msg = f"{folder}: cannot be written: {error.strerror or error}"
        raise CheckpointError(msg) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return sum(tensor.nbytes for tensor in tensors), len(tensors)


def _with_llama3(checkpoint: Checkpoint) -> ModelConfig:
    """The rule that stored divisors come from: config.json names rules, not divisors."""
    config = checkpoint.config
    record = checkpoint.tensors.get(DIVISORS)
    if record is None:
        return config
    stored = record.read().view(np.float32)
    if np.all(stored == 1):
        return config
    rule = RopeScaling(kind="llama3", factor=float(stored.max()), original_context=_LLAMA3_ORIGINAL)
    guess = replace(config, rope_scaling=rule)
    expected = rotary_divisors(guess)
    if (
        config.rope_scaling.kind != "none"
        or expected is None
        or not np.allclose(stored, expected, rtol=1e-4)
    ):
        msg = (
            f"{record.file}: its rotary divisors are not those of Llama 3.1 (original context "
            f"{_LLAMA3_ORIGINAL}); config.json cannot express them"
        )
        raise CheckpointError(msg)
    return guess


def _hf_tensors(checkpoint: Checkpoint, config: ModelConfig, format: str) -> list[OutTensor]:
    tensors: list[OutTensor] = []
    for name, shape, required in expected_tensors(config):
        record = checkpoint.tensors.get(name)
        if name == DIVISORS:
            continue
        if record is None:
            if required and name.endswith(".bias"):  # all biases of a block or none
                tensors.append(Constant(to_hf_name(name), np.zeros(shape, np.float32)))
            continue
        dtype = "f32" if len(shape) == 1 and record.dtype == "f32" else format
        order = _order(name, config) if checkpoint.config.rope_style == "interleaved" else None
        tensors.append(Rewritten(to_hf_name(name), dtype, record, order))
    return tensors


def _order(name: str, config: ModelConfig) -> Order | None:
    """Row order of q and k, weights and biases alike, when they leave adjacent pairs."""
    if ".attention.wq." in name:
        return to_half_split(config.n_heads, config.head_dim)
    if ".attention.wk." in name:
        return to_half_split(config.n_kv_heads, config.head_dim)
    return None


def _write_tokenizer(checkpoint: Checkpoint, folder: Path, notes: list[str]) -> None:
    if checkpoint.kind == "gguf":
        from llama_rt.convert.gguf_vocabulary import sentencepiece_model

        proto = sentencepiece_model(checkpoint.metadata)
        if proto is not None:
            (folder / "tokenizer.model").write_bytes(proto)
            _write_rules(checkpoint, folder)
            return
    else:
        source = checkpoint.tokenizer_source
        for candidate in [source, source.parent] if checkpoint.kind == "meta" else [source]:
            found = [candidate / name for name in _TOKENIZER_FILES if (candidate / name).is_file()]
            own = find_tokenizer(candidate)
            if own is not None:
                found += [own] * (own not in found)
                for file in found:
                    shutil.copyfile(file, folder / file.name)
                return
    notes.append("the source's tokenizer cannot be written here; copy its files into the folder")


def _write_rules(checkpoint: Checkpoint, folder: Path) -> None:
    """What a GGUF file says of its tokenizer beside the pieces, as a folder's JSON files do."""
    tokenizer = load_tokenizer(checkpoint.path, checkpoint.metadata, "gguf")
    settings = tokenizer.settings
    rules: dict[str, object] = {
        "add_bos_token": settings.add_bos,
        "add_eos_token": settings.add_eos,
        "legacy": settings.prefix_space == "always",
    }
    for name, id in (("bos_token", settings.bos_id), ("eos_token", settings.eos_id)):
        if id is not None:
            rules[name] = tokenizer.piece(id)
    template = checkpoint.metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        rules["chat_template"] = template
    text = json.dumps(rules, ensure_ascii=False, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    generation = json.dumps({"eos_token_id": sorted(tokenizer.stop_ids)}) + "\n"
    (folder / "generation_config.json").write_text(generation, encoding="utf-8")


def write_safetensors_file(
    path: Path,
    tensors: Sequence[OutTensor],
    *,
    overwrite: bool = False,
    advance: Callable[[int], object] = lambda _: None,
) -> None:
    """Writes a safetensors file; it appears complete or not at all.

    Raises:
        CheckpointError: the file exists or cannot be written.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        end = offset + tensor.nbytes
        header[tensor.name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    with new_file(path, overwrite=overwrite) as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for _, chunk in streamed(tensors):
            file.write(chunk.data)
            advance(chunk.nbytes)


def hf_config(config: ModelConfig, dtype: str) -> dict[str, object]:
    """The object of config.json, in the spelling that old and new transformers read.

    Raises:
        CheckpointError: a rope rule that the file cannot express.
    """
    mistral = config.sliding_window is not None
    values: dict[str, object] = {
        "architectures": ["MistralForCausalLM" if mistral else "LlamaForCausalLM"],
        "model_type": "mistral" if mistral else "llama",
        "hidden_size": config.dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.ffn_dim,
        "vocab_size": config.vocab_size,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_context,
        "rope_theta": config.rope_theta,
        "rope_scaling": _rope(config),
        "tie_word_embeddings": config.tie_embeddings,
        "torch_dtype": _TORCH[dtype],
    }
    if mistral:
        values["sliding_window"] = config.sliding_window
    else:
        values["attention_bias"] = config.attention_bias
        values["mlp_bias"] = config.mlp_bias
    return values


def _rope(config: ModelConfig) -> dict[str, object] | None:
    rope = config.rope_scaling
    if rope.kind == "yarn":
        return {
            "rope_type": "yarn",
            "factor": rope.factor,
            "original_max_position_embeddings": rope.original_context,
            "beta_fast": rope.beta_fast,
            "beta_slow": rope.beta_slow,
            "attention_factor": rope.attention_factor,
            "truncate": rope.truncate,
        }
    if rope.attention_factor != 1.0:
        msg = "an attention factor without YaRN cannot be written to config.json"
        raise CheckpointError(msg)
    if rope.kind == "linear":
        base = max(1, int(config.max_context / rope.factor))
        return {
            "rope_type": "linear",
            "factor": rope.factor,
            "original_max_position_embeddings": base,
        }
    if rope.kind == "dynamic":
        return {"rope_type": "dynamic", "factor": rope.factor}
    if rope.kind == "llama3":
        return {
            "rope_type": "llama3",
            "factor": rope.factor,
            "low_freq_factor": rope.low_freq_factor,
            "high_freq_factor": rope.high_freq_factor,
            "original_max_position_embeddings": rope.original_context,
        }
    return None
