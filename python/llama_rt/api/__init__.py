"""The public API: `Llama`, from loading to text, and `identify`.

`load` composes checkpoint, native model, runner and engine; `weights` streams tensors into the
native model; `prompts` and `requests` make requests of what callers write; `forward` gives
logits, scores and embeddings; `adapter_choice` says which adapters a request uses; `identity` tells
what a path is.
"""

from typing import TYPE_CHECKING

from llama_rt.api.llama import Llama

if TYPE_CHECKING:
    from llama_rt.api.identity import Identity, identify

__all__ = ["Identity", "Llama", "identify"]


def __getattr__(name: str) -> object:
    """Imports `identity` when it is asked for: it needs the readers, which take long to import."""
    if name not in ("Identity", "identify"):
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from llama_rt.api import identity

    found: object = getattr(identity, name)
    return found
