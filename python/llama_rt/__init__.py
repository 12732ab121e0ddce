"""llama_rt: the LLaMA family, as published, on your CPU or GPU.

from llama_rt import Llama

llm = Llama.load("path/to/model")
print(llm.generate("Once upon a time", max_tokens=64).text)
"""

from llama_rt.api import Llama
from llama_rt.engine import AsyncStream, Chunk, Completion, Stream, Timings, TokenLogprob, Usage
from llama_rt.errors import (
    BackendUnavailable,
    CancelledError,
    CapacityError,
    CheckpointError,
    CheckpointNotFoundError,
    ConfigError,
    DeviceError,
    DTypeError,
    LlamaRtError,
    MissingExtraError,
    QueueFullError,
    ShapeError,
    TemplateError,
    TokenizerError,
)
from llama_rt.memory import Plan, plan
from llama_rt.sampling import SamplingParams

__version__ = "0.1.0"

__all__ = [
    "AsyncStream",
    "BackendUnavailable",
    "CancelledError",
    "CapacityError",
    "CheckpointError",
    "CheckpointNotFoundError",
    "Chunk",
    "Completion",
    "ConfigError",
    "DTypeError",
    "DeviceError",
    "Llama",
    "LlamaRtError",
    "MissingExtraError",
    "Plan",
    "QueueFullError",
    "SamplingParams",
    "ShapeError",
    "Stream",
    "TemplateError",
    "Timings",
    "TokenLogprob",
    "TokenizerError",
    "Usage",
    "__version__",
    "plan",
]
