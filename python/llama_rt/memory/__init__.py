"""Memory and speed of a model, from headers only.

`estimate` counts bytes and says what fits; `gpu_sizes` does so for GPUs of the usual sizes; `speed`
measures this hardware for a moment; `report` is the public `plan`.
"""

from llama_rt.memory.estimate import (
    KV_DTYPES,
    MAX_BATCH_TOKENS,
    MAX_SEQUENCES,
    MemoryEstimate,
    check_memory,
    check_quantize,
    estimate_memory,
    resolve_context,
    target_dtype,
)
from llama_rt.memory.report import Plan, plan

__all__ = [
    "KV_DTYPES",
    "MAX_BATCH_TOKENS",
    "MAX_SEQUENCES",
    "MemoryEstimate",
    "Plan",
    "check_memory",
    "check_quantize",
    "estimate_memory",
    "plan",
    "resolve_context",
    "target_dtype",
]
