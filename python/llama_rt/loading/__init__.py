"""Reading and writing checkpoints: every format gives the same records under the same names.

To add a format: a module with a reader that returns a `Checkpoint`, a line in `recognise.py` that
tells it by its content, and a row in the table below.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llama_rt.files import kind_of
from llama_rt.loading.checkpoint import Checkpoint, TensorRecord
from llama_rt.loading.ggml import open_ggml
from llama_rt.loading.gguf_model import open_gguf
from llama_rt.loading.hf import open_hf, open_safetensors
from llama_rt.loading.hub import fetch, is_hub_name
from llama_rt.loading.meta import open_meta
from llama_rt.loading.recognise import Kind, recognise

__all__ = ["Checkpoint", "TensorRecord", "open_checkpoint"]

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
    kind, found = recognise(local)
    return _OPENERS[kind](found)
