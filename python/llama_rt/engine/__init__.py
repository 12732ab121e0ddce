"""The engine: requests become batches, batches become tokens, tokens become text.

`engine` takes jobs from any thread; `scheduler` decides what runs next and calls the native runner;
`cancellation` cancels; `jobs` are what callers hand in; `forward_queue` holds plain forward passes;
`detokenizer` and `stopping` turn tokens into text; `prefix_cache` reuses the cache; `streams` is
how callers wait; `results` is what they get.
"""

from __future__ import annotations

from llama_rt.engine.detokenizer import IncrementalDetokenizer
from llama_rt.engine.engine import Engine
from llama_rt.engine.jobs import Forward, Request
from llama_rt.engine.results import (
    Chunk,
    Completion,
    EngineStats,
    FinishReason,
    Timings,
    TokenLogprob,
    Usage,
)
from llama_rt.engine.stopping import named_ids, parse_stop
from llama_rt.engine.streams import AsyncStream, Stream, collect, collect_async, run_forwards

__all__ = [
    "AsyncStream",
    "Chunk",
    "Completion",
    "Engine",
    "EngineStats",
    "FinishReason",
    "Forward",
    "IncrementalDetokenizer",
    "Request",
    "Stream",
    "Timings",
    "TokenLogprob",
    "Usage",
    "collect",
    "collect_async",
    "named_ids",
    "parse_stop",
    "run_forwards",
]
