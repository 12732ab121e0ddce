"""Opened models: every layout gives the same records under the same canonical names.

`detect` tells a layout by its content and `open` calls its reader: `meta`, `hf`, `gguf_model`,
`ggml_model`; `delta` and `koala` add a difference to a base, `computed` makes such tensors as they
are read. `names` has each format's spelling, `assemble` checks what is there against it.
"""

from llama_rt.checkpoint.checkpoint import Checkpoint
from llama_rt.checkpoint.delta import looks_like_a_delta, open_delta
from llama_rt.checkpoint.koala import is_koala, koala_width
from llama_rt.checkpoint.open import find_checkpoint, open_checkpoint
from llama_rt.formats.records import TensorRecord

__all__ = [
    "Checkpoint",
    "TensorRecord",
    "find_checkpoint",
    "is_koala",
    "koala_width",
    "looks_like_a_delta",
    "open_checkpoint",
    "open_delta",
]
