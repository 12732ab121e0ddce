"""`llama-rt convert`: any readable checkpoint to GGUF."""

from __future__ import annotations

NAME = "convert"
SUMMARY = "write any readable checkpoint as GGUF, quantized or not"
EXAMPLES = """\
  llama-rt convert path/to/llama-7b llama-7b-q8_0.gguf --format q8_0
  llama-rt convert model-f16.gguf model-q4_0.gguf --format q4_0
  llama-rt convert path/to/model model.gguf --format bf16 --force
"""
