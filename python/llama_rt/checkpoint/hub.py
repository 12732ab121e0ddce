"""`org/name` on the Hugging Face Hub, through `huggingface_hub` and its cache."""

from __future__ import annotations

import re
from pathlib import Path

from llama_rt.checkpoint.hf import hf_weights
from llama_rt.errors import CheckpointError, CheckpointNotFoundError, MissingExtraError

__all__ = ["fetch", "is_hub_name"]

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILE_ENDINGS = (".gguf", ".safetensors", ".pth", ".pt", ".bin", ".json")
_FILES = ["*.json", "*.model", "*.safetensors", "*.jinja", "tokenizer*"]
_PICKLED = ["pytorch_model*.bin"]
_DUPLICATES = ["consolidated*", "original/*"]  # the same weights in the makers' own layout


def is_hub_name(path: str) -> bool:
    """True if the text could be `org/name`."""
    return (
        _NAME.fullmatch(path) is not None
        and ".." not in path
        and "--" not in path
        and not path.endswith(_FILE_ENDINGS)
    )


def fetch(name: str, *, revision: str | None = None) -> Path:
    """Folder of a Hub model: from the cache, or downloaded into it.

    Without a network, what the cache holds is used. Pickled weights are fetched only when the
    model has no safetensors.

    Raises:
        MissingExtraError: `huggingface_hub` is not installed.
        CheckpointNotFoundError: the Hub has no such model, and the cache neither.
    """
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        msg = (
            f"{name!r} is no local path; to load it from the Hugging Face Hub, install the extra: "
            "pip install 'llama-rt[hf]'"
        )
        raise MissingExtraError(msg) from None

    def snapshot(patterns: list[str]) -> Path:
        folder = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=patterns, ignore_patterns=_DUPLICATES
        )
        return Path(folder)

    try:
        folder = snapshot(_FILES)
        if hf_weights(folder) is None:
            folder = snapshot(_FILES + _PICKLED)
    except LocalEntryNotFoundError:
        msg = f"{name!r}: no local path, not in the Hub's cache, and the Hub cannot be reached"
        raise CheckpointNotFoundError(msg) from None
    except HfHubHTTPError as error:
        reason = str(error).splitlines()[0][:200]
        msg = f"{name!r}: no local path, and the Hugging Face Hub refuses it: {reason}"
        raise CheckpointNotFoundError(msg) from None
    except (OSError, ValueError) as error:
        msg = f"{name!r}: cannot be loaded from the Hub: {str(error)[:200]}"
        raise CheckpointError(msg) from None
    return folder
