"""Any readable checkpoint to GGUF or to a Hugging Face folder, tensor by tensor.

q and k change the order of their rows where the formats differ; norms and biases stay or become
f32 in GGUF; what a format cannot say is refused or reported, never dropped silently.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from llama_rt.checkpoint.checkpoint import Checkpoint
from llama_rt.checkpoint.computed import Order, to_interleaved
from llama_rt.checkpoint.names import DIVISORS, to_gguf_name
from llama_rt.config import ModelConfig
from llama_rt.convert.gguf_metadata import model_keys, rotary_divisors
from llama_rt.convert.gguf_writer import Value, string, unsigned, write_gguf_file
from llama_rt.convert.hf_writer import write_hf_folder
from llama_rt.convert.importance import with_importance
from llama_rt.convert.recipes import formats, matrix_type, stored_file_type
from llama_rt.convert.rewrite import Constant, OutTensor, Rewritten
from llama_rt.errors import CheckpointError, ConfigError
from llama_rt.files import kind_of
from llama_rt.formats.gguf import read_gguf
from llama_rt.formats.records import TensorRecord

__all__ = ["GGUF_FORMATS", "HF_FORMATS", "Conversion", "convert", "write_gguf"]

GGUF_FORMATS = formats()
HF_FORMATS = ("f32", "f16", "bf16")

Advance = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was written.

    Attributes:
        path: the new file or folder.
        format: type of the matrices.
        nbytes: bytes of all tensors.
        tensors: how many.
        notes: what the reader of the new file should know, one sentence each.
    """

    path: Path
    format: str
    nbytes: int
    tensors: int
    notes: tuple[str, ...]


def convert(
    src: str | Path | Checkpoint,
    dst: str | Path,
    format: str,
    *,
    base: str | Path | None = None,
    imatrix: str | Path | None = None,
    overwrite: bool = False,
    max_context: int | None = None,
    progress: bool | None = None,
) -> Conversion:
    """Writes a checkpoint in another format; memory holds two tensors at a time.

    Args:
        src: what `open_checkpoint` takes, or an opened checkpoint.
        dst: a name ending in `.gguf`; any other is a Hugging Face folder to make.
        format: `"f32"`, `"f16"`, `"bf16"`; for GGUF also every quantized type and llama.cpp's
            recipes for them (`convert.formats()`). Matrices whose rows are not whole blocks take a
            type of smaller blocks, or f16.
        base: the model that `src`, a delta, is added to.
        imatrix: llama.cpp's importance matrix, by which errors are weighted (GGUF only).
        overwrite: replace a GGUF file that exists; folders are never replaced.
        max_context: tokens that the new file promises, fewer than the source's.
        progress: a bar on standard error: None on a terminal, False never.

    Raises:
        CheckpointError: the source is damaged, the target exists or cannot be written, or a
            number does not fit the format.
        ConfigError: an unknown format, or a rule that the target cannot express.
    """
    from llama_rt.checkpoint import open_checkpoint
    from llama_rt.checkpoint.delta import open_delta

    if base is not None and not isinstance(src, Checkpoint):
        checkpoint = open_delta(src, open_checkpoint(base))
    else:
        checkpoint = src if isinstance(src, Checkpoint) else open_checkpoint(src)
    target = Path(dst)
    to_gguf = target.suffix == ".gguf"
    known = GGUF_FORMATS if to_gguf else HF_FORMATS
    if format not in known:
        kind = "GGUF" if to_gguf else "safetensors"
        msg = f"format {format!r} cannot be written to {kind}; known: {', '.join(known)}"
        raise ConfigError(msg)
    if target.suffix == ".safetensors":
        msg = f"{target}: weights alone do not make a model; give the name of a folder"
        raise ConfigError(msg)
    if max_context is not None:
        checkpoint = _shorter(checkpoint, max_context)
    _refuse_relatives(checkpoint.config, target)
    if to_gguf:
        return write_gguf(
            checkpoint, target, format, imatrix=imatrix, overwrite=overwrite, progress=progress
        )
    if imatrix is not None:
        msg = f"{imatrix}: an importance matrix serves quantized formats, which only GGUF has"
        raise ConfigError(msg)
    notes: list[str] = []
    total = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    with _bar(total, target.name, progress) as advance:
        nbytes, count = write_hf_folder(checkpoint, target, format, notes, advance)
    return Conversion(target, format, nbytes, count, tuple(notes))


def write_gguf(
    checkpoint: Checkpoint,
    path: str | Path,
    format: str | None = None,
    *,
    imatrix: str | Path | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
) -> Conversion:
    """Writes a checkpoint as GGUF.

    Args:
        checkpoint: the source.
        path: the new file.
        format: of the matrices; None keeps each as it is stored.
        imatrix: see `convert`.
        overwrite: replace a file that exists.
        progress: a bar on standard error: None on a terminal, False never.

    Raises:
        CheckpointError: see `convert`.
    """
    from llama_rt.convert.proof import prove_gguf  # it needs much that importing us must not

    path = Path(path)
    if kind_of(path) == "file" and any(
        kind_of(file) == "file" and path.samefile(file) for file in checkpoint.files
    ):
        msg = f"{path}: is the source itself"
        raise CheckpointError(msg)
    _refuse_relatives(checkpoint.config, path)
    notes: list[str] = []
    config = _within_window(checkpoint.config, notes)
    tensors = _gguf_tensors(checkpoint, config, format, notes)
    if imatrix is not None:
        tensors = with_importance(tensors, Path(imatrix), notes)
    main = format or _most_common(checkpoint)
    keys = _gguf_keys(checkpoint, config, stored_file_type(main), notes)
    total = sum(tensor.nbytes for tensor in tensors)
    with _bar(total, path.name, progress) as advance:
        write_gguf_file(
            path,
            keys,
            tensors,
            overwrite=overwrite,
            advance=advance,
            check=lambda written: prove_gguf(checkpoint, written, path),
        )
    return Conversion(path, main, total, len(tensors), tuple(notes))


def _shorter(checkpoint: Checkpoint, max_context: int) -> Checkpoint:
    if not 1 <= max_context <= checkpoint.config.max_context:
        msg = f"max_context must be from 1 to {checkpoint.config.max_context}, not {max_context}"
        raise ConfigError(msg)
    return replace(checkpoint, config=replace(checkpoint.config, max_context=max_context))


def _refuse_relatives(config: ModelConfig, path: Path) -> None:
    """Refuses what neither format of LLaMA says, or what only its own family's does."""
    reasons = {
        "norms q and k (Qwen3)": config.qk_norm,
        "has rotary divisors for two lengths (longrope)": config.rope_scaling.kind == "longrope",
        "has no output matrix (LlamaModel)": config.bare,
        "has biases of q, k and v only (Qwen2)": config.attention_bias == "qkv"
        and path.suffix != ".gguf",
    }
    for what, there in reasons.items():
        if there:
            msg = f"{path}: a model that {what} cannot be written yet"
            raise ConfigError(msg)


def _within_window(config: ModelConfig, notes: list[str]) -> ModelConfig:
    """GGUF has no key for a sliding window here: up to the window none is needed."""
    window = config.sliding_window
    if window is not None and window < config.max_context:
        notes.append(
            f"GGUF cannot say that attention sees {window} tokens only; the context is cut from "
            f"{config.max_context} to {window} tokens, where that makes no difference"
        )
        return replace(config, max_context=window, sliding_window=None)
    return config


def _most_common(checkpoint: Checkpoint) -> str:
    """The type that holds most bytes of the matrices."""
    totals: dict[str, int] = {}
    for tensor in checkpoint.tensors.values():
        if len(tensor.shape) == 2:
            totals[tensor.dtype] = totals.get(tensor.dtype, 0) + tensor.nbytes
    return max(totals, key=totals.__getitem__)


# --- tensors ---


def _gguf_tensors(
    checkpoint: Checkpoint, config: ModelConfig, format: str | None, notes: list[str]
) -> list[OutTensor]:
    tensors: list[OutTensor] = []
    divisors = rotary_divisors(config)
    if divisors is not None:
        tensors.append(Constant("rope_freqs.weight", divisors))
    reduced: dict[str, str] = {}
    for name, record in checkpoint.tensors.items():
        if name == DIVISORS and divisors is not None:
            msg = f"{record.file}: both a rope scaling rule and stored divisors"
            raise CheckpointError(msg)
        dtype = _gguf_type(record, format, config)
        if dtype != _gguf_type(record, format, config, whole_blocks=True):
            reduced[to_gguf_name(name)] = dtype
        order = _order(name, config) if config.rope_style == "halves" else None
        tensors.append(Rewritten(to_gguf_name(name), dtype, record, order))
    if reduced:
        notes.append(
            f"{len(reduced)} matrices have rows that are no whole blocks of their type and became "
            f"{', '.join(sorted(set(reduced.values())))}: "
            f"{', '.join(list(reduced)[:3])}{' ...' if len(reduced) > 3 else ''}"
        )
    return tensors


def _gguf_type(
    record: TensorRecord, format: str | None, config: ModelConfig, *, whole_blocks: bool = False
) -> str:
    """Vectors are f32 in GGUF; matrices have the format's type, or what their rows allow.

    `whole_blocks`: as if rows were whole blocks of every type.
    """
    if len(record.shape) < 2:
        return "f32"
    if format is None:
        return record.dtype
    width = 0 if whole_blocks else record.shape[-1]
    return matrix_type(record.name, width, format, config) or "f16"


def _order(name: str, config: ModelConfig) -> Order | None:
    """Row order of q and k, weights and biases alike, when they leave half-split order."""
    if ".attention.wq." in name:
        return to_interleaved(config.n_heads, config.head_dim)
    if ".attention.wk." in name:
        return to_interleaved(config.n_kv_heads, config.head_dim)
    return None


# --- keys ---


def _gguf_keys(
    checkpoint: Checkpoint, config: ModelConfig, file_type: int, notes: list[str]
) -> dict[str, Value]:
    if checkpoint.kind == "gguf" and checkpoint.files:
        return _copied_keys(checkpoint, config, file_type)
    keys = model_keys(config, config.name or checkpoint.path.stem, file_type)
    if config.rope_scaling.kind == "dynamic":
        notes.append(
            "GGUF has no dynamic rope scaling; up to the context length written it is not needed"
        )
    vocabulary: dict[str, Value] = {}
    from llama_rt.convert.gguf_vocabulary import read_vocabulary, vocabulary_keys

    if checkpoint.kind == "gguf":  # a file from before GGUF, read as one
        vocabulary = read_vocabulary(checkpoint.metadata)
    else:
        vocabulary = vocabulary_keys(checkpoint)
    if not vocabulary:
        vocabulary = {"tokenizer.ggml.model": string("no_vocab")}
        notes.append("no tokenizer was found with the weights; the file has none")
    return keys | vocabulary


def _copied_keys(checkpoint: Checkpoint, config: ModelConfig, file_type: int) -> dict[str, Value]:
    """The source's own keys, but for what describes its storage."""
    source = read_gguf(checkpoint.files[0])
    keys = {
        key: Value(source.kinds[key], value)
        for key, value in source.metadata.items()
        if not key.startswith("split.") and key != "general.alignment"
    }
    keys["general.file_type"] = unsigned(file_type)
    keys["general.quantization_version"] = unsigned(2)
    stated = checkpoint.metadata.get("llama.context_length")
    if isinstance(stated, int) and config.max_context < stated:
        keys["llama.context_length"] = unsigned(config.max_context)
    return keys


@contextmanager
def _bar(total: int, name: str, progress: bool | None) -> Iterator[Advance]:
    """A bar over bytes on standard error; yields what advances it."""
    if progress is False or (progress is None and not sys.stderr.isatty()):
        yield lambda _: None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=f"writing {name}", unit="B", unit_scale=True, leave=False) as bar:
        yield bar.update
