"""Bytes and speed before anything is read.

`needs` counts bytes from headers and says what fits; `speed` measures this machine for a moment;
`report` is the public `plan`.
"""

from llama_rt.plan.needs import (
    MAX_BATCH_TOKENS,
    MAX_SEQUENCES,
    Needs,
    check_memory,
    check_quantize,
    find,
    needs,
    resolve_context,
    target_dtype,
)
from llama_rt.plan.report import Plan, plan

__all__ = [
    "MAX_BATCH_TOKENS",
    "MAX_SEQUENCES",
    "Needs",
    "Plan",
    "check_memory",
    "check_quantize",
    "find",
    "needs",
    "plan",
    "resolve_context",
    "target_dtype",
]
