"""Hugging Face folders: config.json with safetensors or pickled weights, one file or sharded.

q and k stay in their order: the configuration says `rope_style="halves"`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from llama_rt.checkpoint.assemble import rename, verify
from llama_rt.checkpoint.checkpoint import Checkpoint
from llama_rt.checkpoint.hf_fused import normalized_rows, unfused
from llama_rt.checkpoint.names import from_hf_name, to_hf_name
from llama_rt.checkpoint.quantized import read_quantized
from llama_rt.config import ModelConfig, from_hf
from llama_rt.errors import CheckpointError
from llama_rt.files import kind_of, names_in, read_json
from llama_rt.formats.pth import read_pth
from llama_rt.formats.records import TensorRecord
from llama_rt.formats.safetensors import read_safetensors

__all__ = ["hf_weights", "open_hf", "open_safetensors"]

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_BAICHUAN_2 = 125696  # tokens
_SINGLES = ("model.safetensors", "pytorch_model.bin")


def hf_weights(folder: Path) -> Path | None:
    """The file that leads to a folder's weights (an index or a single file), safetensors first."""
    for index, single in zip(_INDEXES, _SINGLES, strict=True):
        for name in (index, single):
            if kind_of(folder / name) != "nothing":
                return folder / name
    others = [name for name in names_in(folder) if name.endswith(".safetensors")
              and not name.startswith(("adapter", "consolidated"))]  # fmt: skip
    return folder / others[0] if len(others) == 1 else None


def open_hf(folder: Path) -> Checkpoint:
    """Opens a folder with config.json.

    Raises:
        CheckpointError: weights are missing, damaged, or do not fit the configuration.
        ConfigError: config.json asks for something that is not supported.
    """
    lead = hf_weights(folder)
    if lead is None:
        msg = f"{folder}: config.json without weights; looked for {', '.join(_INDEXES + _SINGLES)}"
        raise CheckpointError(msg)
    tensors: Mapping[str, TensorRecord]
    files: tuple[Path, ...]
    if lead.name.endswith(".index.json"):
        tensors, files = _read_index(lead)
    else:
        tensors, files = _read_file(lead), (lead,)
    return _checkpoint(folder, folder / "config.json", tensors, files, "hf")


def open_safetensors(path: Path) -> Checkpoint:
    """Opens one .safetensors file with the config.json of its folder.

    Raises:
        CheckpointError: the file is damaged, or config.json is not there.
        ConfigError: config.json asks for something that is not supported.
    """
    config_path = path.parent / "config.json"
    if kind_of(config_path) == "nothing":
        msg = f"{path}: a safetensors file does not describe its model; put config.json next to it"
        raise CheckpointError(msg)
    return _checkpoint(path, config_path, read_safetensors(path).tensors, (path,), "safetensors")


def _checkpoint(
    path: Path,
    config_path: Path,
    raw: Mapping[str, TensorRecord],
    files: tuple[Path, ...],
    kind: str,
) -> Checkpoint:
    metadata = read_json(config_path)
    _refuse_other_contents(raw)
    embedding = _with_prefix(raw).get("model.embed_tokens.weight")
    rows = embedding.shape[0] if embedding is not None and embedding.shape else None
    # Another architecture is refused for what it is, before its tensors are.
    config: ModelConfig = from_hf(metadata, source=config_path, vocab_size=rows)
    raw, quantization = read_quantized(raw, metadata, config_path)
    tensors = rename(unfused(_with_prefix(raw), config), from_hf_name)
    output = tensors.get("output.weight")
    if output is not None and _norms_output(metadata):
        tensors["output.weight"] = normalized_rows(output)
    tensors = verify(tensors, config, path, to_hf_name)
    if config.bare and (config.tie_embeddings or output is not None):
        config = replace(config, bare=False)
    return Checkpoint(
        path,
        "safetensors" if kind == "safetensors" else "hf",
        config,
        tensors,
        metadata,
        files,
        quantization,
    )


def _norms_output(metadata: Mapping[str, object]) -> bool:
    """Baichuan 2, told from Baichuan by its vocabulary, scales the output's rows to length 1."""
    return metadata.get("model_type") == "baichuan" and metadata.get("vocab_size") == _BAICHUAN_2


def _refuse_other_contents(raw: Mapping[str, TensorRecord]) -> None:
    """Says what a file is that holds something other than a model's weights."""
    for name, record in raw.items():
        if ".lora_A." in name or ".lora_B." in name:
            msg = (
                f"{record.file}: LoRA tensors such as {name[:120]!r}: an adapter, not a model; "
                "load its base model and give this as `adapters`"
            )
            raise CheckpointError(msg)


def _with_prefix(raw: Mapping[str, TensorRecord]) -> Mapping[str, TensorRecord]:
    """A bare `LlamaModel` was saved without the `model.` in front."""
    if "embed_tokens.weight" not in raw or "model.embed_tokens.weight" in raw:
        return raw
    return {name if name.startswith("lm_head.") else f"model.{name}": tensor
            for name, tensor in raw.items()}  # fmt: skip


def _read_file(path: Path) -> Mapping[str, TensorRecord]:
    return read_safetensors(path).tensors if path.suffix == ".safetensors" else read_pth(path)


def _read_index(index: Path) -> tuple[dict[str, TensorRecord], tuple[Path, ...]]:
    """Follows `weight_map`, never a pattern of file names."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        msg = f"{index}: no weight_map"
        raise CheckpointError(msg)
    opened: dict[str, Mapping[str, TensorRecord]] = {}
    tensors: dict[str, TensorRecord] = {}
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard or shard in ("", ".", ".."):
            shown = repr(shard[:80]) if isinstance(shard, str) else f"a {type(shard).__name__}"
            msg = f"{index}: tensor {name[:200]!r} is in {shown}, not a file name"
            raise CheckpointError(msg)
        path = index.parent / shard
        if shard not in opened:
            if kind_of(path) == "nothing":
                msg = f"{index}: shard {shard[:80]!r} is missing"
                raise CheckpointError(msg)
            opened[shard] = _read_file(path)
        record = opened[shard].get(name)
        if record is None:
            msg = f"{path}: tensor {name[:200]!r} is missing; the index says that it is there"
            raise CheckpointError(msg)
        tensors[name] = record
    return tensors, tuple(index.parent / shard for shard in opened)
