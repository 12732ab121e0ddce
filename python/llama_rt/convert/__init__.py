"""Checkpoints into other formats: GGUF or a Hugging Face folder, quantized or not.

`conversion` decides what is written and the writers write it; `rewrite` requantizes tensors chunk
by chunk; `recipes` has the quantization recipes by name; `gguf_metadata` and `gguf_vocabulary` make
the keys; `output` makes files that appear whole or not at all.
"""

from llama_rt.convert.conversion import Conversion, convert, write_gguf
from llama_rt.convert.recipes import formats

__all__ = ["Conversion", "convert", "formats", "write_gguf"]
