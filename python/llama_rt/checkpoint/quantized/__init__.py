"""Hugging Face folders whose matrices are quantized: one module for each method.

`quantization_config` in config.json says which. To add a method: a module with `PARTS` (suffixes of
the tensors that it uses up), `describe` (the layout in words; refuses what is not read) and `read`
(every matrix as the runtime has it), and a line in `methods.py`.
"""

from llama_rt.checkpoint.quantized.methods import read_quantized

__all__ = ["read_quantized"]
