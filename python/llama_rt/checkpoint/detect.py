"""What a path is, told by its content; if it is no model, what it is instead and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from llama_rt.checkpoint.hf import hf_weights
from llama_rt.checkpoint.koala import is_koala
from llama_rt.checkpoint.meta import MISTRAL_FILE, is_meta_folder
from llama_rt.errors import CheckpointError, CheckpointNotFoundError
from llama_rt.files import kind_of, names_in, read_head
from llama_rt.formats.ggml import MAGICS
from llama_rt.formats.pth import read_pth

__all__ = ["Kind", "detect"]

Kind = Literal["meta", "hf", "gguf", "ggml", "safetensors"]

_MODEL_FORMS = (
    "a model folder holds params.json with consolidated.00.pth (Meta), or config.json with "
    "model.safetensors or pytorch_model.bin or their index (Hugging Face), or one .gguf file"
)
_MAX_LISTED = 6


def detect(path: Path) -> tuple[Kind, Path]:
    """Format and path to open: the path itself, or the file or folder that it stands for.

    Raises:
        CheckpointNotFoundError: the path does not exist.
        CheckpointError: it is no model; the message says what it is.
    """
    kind = kind_of(path)
    if kind == "nothing":
        msg = f"{path}: no such file or folder"
        raise CheckpointNotFoundError(msg)
    return _folder(path) if kind == "folder" else _file(path)


def _file(path: Path) -> tuple[Kind, Path]:
    if path.name in ("params.json", "config.json") or path.name.endswith(".index.json"):
        return _folder(path.parent)
    head = read_head(path, 16)
    if not head:
        msg = f"{path}: the file is empty"
        raise CheckpointError(msg)
    if head[:4] == b"GGUF":
        return "gguf", path
    if is_koala(path):
        msg = (
            f"{path}: Koala's difference to LLaMA (EasyLM's stream), not a model; give it with its "
            f"base: llama-rt chat -m {path} --base LLAMA --template koala"
        )
        raise CheckpointError(msg)
    if head[:4] == b"FUGG":
        msg = f"{path}: a big-endian GGUF file, which is not supported"
        raise CheckpointError(msg)
    if head[:4] in MAGICS:
        return "ggml", path
    if path.suffix == ".safetensors" or (head[8:9] == b"{" and head[6:8] == b"\0\0"):
        return _safetensors(path)
    if head[:4] == b"PK\x03\x04" or head[:2] == b"\x80\x02":
        return _pickled(path)
    if path.suffix == ".gguf":
        msg = f"{path}: does not begin with GGUF; the file is damaged or something else"
        raise CheckpointError(msg)
    msg = (
        f"{path}: not a model file; supported are .gguf and .safetensors files, and folders: "
        f"{_MODEL_FORMS}"
    )
    raise CheckpointError(msg)


def _safetensors(path: Path) -> tuple[Kind, Path]:
    if path.name.startswith("adapter_model") or _holds(path.parent, "adapter_config.json"):
        raise CheckpointError(_adapter(path))
    if path.name == MISTRAL_FILE and is_meta_folder(path.parent):
        return "meta", path.parent
    return "safetensors", path


def _pickled(path: Path) -> tuple[Kind, Path]:
    """A lone file of torch.save: its folder, if that is a model; else what it may be."""
    if path.name.startswith("consolidated.") and is_meta_folder(path.parent):
        return "meta", path.parent
    if path.name == "pytorch_model.bin" and _holds(path.parent, "config.json"):
        return "hf", path.parent
    if path.name.startswith("adapter_model"):
        raise CheckpointError(_adapter(path))
    adapter = _llama_adapter(path)
    if adapter:
        raise CheckpointError(adapter)
    msg = (
        f"{path}: a file of torch.save alone does not describe a model; give the folder: "
        f"{_MODEL_FORMS}"
    )
    raise CheckpointError(msg)


def _adapter(path: Path) -> str:
    return (
        f"{path}: a PEFT adapter, not a model; load its base model and give this as `adapters` "
        f"(llama-rt run -m BASE --adapter {path})"
    )


def _llama_adapter(path: Path) -> str:
    """A message if the file's tensors are those of LLaMA-Adapter, else nothing."""
    try:
        names = read_pth(path)
    except CheckpointError:
        return ""
    if any(
        name.endswith(("adapter_query.weight", ".gate", "wq_bias", "wq_scale")) for name in names
    ):
        return (
            f"{path}: a LLaMA-Adapter file, not a model; load its base model and give this "
            f"as `adapters` (llama-rt run -m BASE --adapter {path})"
        )
    return ""


def _folder(folder: Path) -> tuple[Kind, Path]:
    names = names_in(folder)
    if _holds(folder, "config.json") and hf_weights(folder) is not None:
        return "hf", folder
    if is_meta_folder(folder):
        return "meta", folder
    files = [name for name in names if name.endswith(".gguf")]
    firsts = [name for name in files if "-of-" not in name or "-00001-of-" in name]
    if len(firsts) == 1:
        return "gguf", folder / firsts[0]
    msg = f"{folder}: {_no_model(folder, names, files)}"
    raise CheckpointError(msg)


def _no_model(folder: Path, names: list[str], files: list[str]) -> str:
    """One line: what the folder is instead."""
    if len(files) > 1:
        return f"holds {len(files)} GGUF files; give one of them: {_listed(files)}"
    if "adapter_config.json" in names:
        return (
            "a PEFT adapter, not a model; load its base model and give this as `adapters` "
            f"(llama-rt run -m BASE --adapter {folder})"
        )
    if "config.json" in names:
        return (
            "config.json without weights: model.safetensors, pytorch_model.bin or their index "
            f"is missing; it holds {_listed(names)}"
        )
    if "params.json" in names:
        if any(name.endswith(".safetensors") for name in names):
            return (
                "params.json with safetensors, but none is consolidated.safetensors (Mistral's own "
                "layout); config.json is missing"
            )
        return f"params.json without consolidated.00.pth; it holds {_listed(names)}"
    if any(name.startswith("consolidated.") for name in names):
        return "consolidated weights without params.json, which says their sizes"
    if any(name.endswith((".safetensors", ".bin")) for name in names):
        return f"weights without config.json, which says their sizes; it holds {_listed(names)}"
    below = [name for name in names if _is_model(folder / name)]
    if below:
        return f"no model itself, but these folders in it are: {_listed(below)}"
    if not names:
        return f"an empty folder; {_MODEL_FORMS}"
    return f"no model; it holds {_listed(names)}; {_MODEL_FORMS}"


def _is_model(folder: Path) -> bool:
    try:
        return kind_of(folder) == "folder" and (
            is_meta_folder(folder)
            or (_holds(folder, "config.json") and hf_weights(folder) is not None)
        )
    except CheckpointError:  # one that may not be read
        return False


def _holds(folder: Path, name: str) -> bool:
    """Whether the folder has something of that name; that it is a file is seen when it is read."""
    return kind_of(folder / name) != "nothing"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more
