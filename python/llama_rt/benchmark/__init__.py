"""Tokens per second of a model on this computer, and what the memory could give.

Measures the native calls that a generation makes (`Runner.forward` for a prompt, `Runner.decode`
for what follows), so that the figures are the runtime's own. Weights come through the same loading
and repacking as any model's, from a file or made in memory for a shape.
"""

from llama_rt.benchmark.measure import measure, stored_formats
from llama_rt.benchmark.settings import Result, Settings
from llama_rt.benchmark.synthetic import SHAPES, synthetic_checkpoint

__all__ = [
    "SHAPES",
    "Result",
    "Settings",
    "measure",
    "stored_formats",
    "synthetic_checkpoint",
]
