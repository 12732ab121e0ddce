"""Adapters: LoRA and LLaMA-Adapter files, read as deltas; attached to a loaded model, or merged.

To add a type: a reader that gives an `AdapterFile`, and a branch in `open_adapter`.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

from llama_rt.adapters.deltas import SIZES, AdapterFile, attach
from llama_rt.adapters.llama_adapter import GateMode, open_adaption_prompt, open_llama_adapter
from llama_rt.adapters.lora import open_gguf_lora, open_peft_lora, read_weights
from llama_rt.adapters.merge import merge
from llama_rt.errors import CheckpointError, CheckpointNotFoundError, ConfigError
from llama_rt.files import kind_of, read_head, read_json
from llama_rt.formats.pth import read_pth

__all__ = ["SIZES", "AdapterFile", "attach", "merge", "open_adapter", "split_options"]


def split_options(path: str | Path) -> tuple[Path, GateMode | None]:
    """Takes `#gate=raw` or `#gate=tanh` off the end of a path.

    Raises:
        ConfigError: another option.
    """
    text, mark, option = str(path).partition("#")
    if not mark or kind_of(Path(path)) != "nothing":
        return Path(path), None
    if option not in ("gate=raw", "gate=tanh"):
        msg = f"adapter {path}: unknown option {option!r}, expected gate=raw or gate=tanh"
        raise ConfigError(msg)
    return Path(text), cast("GateMode", option.removeprefix("gate="))


def open_adapter(path: str | Path) -> AdapterFile:
    """Opens an adapter by its content.

    Args:
        path: a PEFT folder (LoRA or adaption prompt) or a file in it, a `.gguf` LoRA, or a
            LLaMA-Adapter `.pth`; `#gate=tanh` or `#gate=raw` after it chooses how the gates of a
            LLaMA-Adapter multiply.

    Raises:
        CheckpointNotFoundError: there is nothing at the path.
        CheckpointError: it is no adapter, or damaged, or of a kind that is not computed.
    """
    place, gate = split_options(path)
    kind = kind_of(place)
    if kind == "nothing":
        msg = f"{place}: no such file or folder (adapter)"
        raise CheckpointNotFoundError(msg)
    folder = place if kind == "folder" else place.parent
    is_peft = kind_of(folder / "adapter_config.json") != "nothing"
    if is_peft and (kind == "folder" or place.name.startswith("adapter_")):
        return _open_peft(folder, gate)
    if kind == "folder":
        msg = f"{place}: no adapter; a folder of one holds adapter_config.json"
        raise CheckpointError(msg)
    if read_head(place, 4) == b"GGUF":
        return open_gguf_lora(place)
    return open_llama_adapter(place, read_pth(place), gate)


def _open_peft(folder: Path, gate: GateMode | None) -> AdapterFile:
    config = read_json(folder / "adapter_config.json")
    kind = config.get("peft_type")
    if kind == "LORA":
        return open_peft_lora(folder, config)
    if kind == "ADAPTION_PROMPT":
        return open_adaption_prompt(folder, read_weights(folder), gate)
    msg = (
        f"{folder / 'adapter_config.json'}: peft_type {str(kind)[:40]!r} is not supported; "
        "LORA and ADAPTION_PROMPT are"
    )
    raise CheckpointError(msg)
