"""Opening a checkpoint by its content: the table of readers.

To add a format: a module with a reader that returns a `Checkpoint`, a line in `detect.py` that
tells it by its content, and a row in the table below.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from llama_rt.checkpoint.checkpoint import Checkpoint
from llama_rt.checkpoint.detect import Kind, detect
from llama_rt.checkpoint.ggml_model import open_ggml
from llama_rt.checkpoint.gguf_model import open_gguf
from llama_rt.checkpoint.hf import open_hf, open_safetensors
from llama_rt.checkpoint.hub import fetch, is_hub_name
from llama_rt.checkpoint.meta import open_meta
from llama_rt.errors import CheckpointNotFoundError
from llama_rt.files import kind_of

__all__ = ["find_checkpoint", "open_checkpoint"]

_BUILT_IN = Path(__file__).parents[1] / "data" / "tales.gguf"
_OPENERS: dict[Kind, Callable[[Path], Checkpoint]] = {
    "meta": open_meta,
    "hf": open_hf,
    "gguf": open_gguf,
    "ggml": open_ggml,
    "safetensors": open_safetensors,
}


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Opens a checkpoint: reads headers, maps weights, checks that everything fits.

    Args:
        path: a Meta folder, a Hugging Face folder, a `.gguf` or `.safetensors` file; or `org/name`
            on the Hub, if there is no local path of that name.

    Raises:
        CheckpointNotFoundError: there is nothing at the path.
        CheckpointError: what is there is no model, or it is damaged.
        ConfigError: a model that this runtime does not compute.
        MissingExtraError: a Hub name without the extra `hf`.
    """
    local = Path(path)
    if kind_of(local) == "nothing" and is_hub_name(str(path)):
        local = fetch(str(path))
    kind, found = detect(local)
    return _OPENERS[kind](found)


def find_checkpoint(path: str | Path | None) -> Checkpoint:
    """Opens a checkpoint's headers; None is the model that comes with the package.

    Raises:
        CheckpointNotFoundError: There is nothing at the path.
        CheckpointError: The path is no checkpoint.
        TypeError: It is no path.
    """
    if path is None:
        path = _BUILT_IN
        if not path.is_file():
            msg = f"{path}: this build has no built-in model; give the path of one"
            raise CheckpointNotFoundError(msg)
    if not isinstance(path, (str, os.PathLike)):
        msg = f"path: expected a path or None, got {type(path).__name__}"
        raise TypeError(msg)
    # Not `Path.expanduser`, which raises for an unknown user: there is nothing at such a path.
    return open_checkpoint(os.path.expanduser(path))  # noqa: PTH111
