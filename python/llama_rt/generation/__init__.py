"""Generation: requests become batches, batches become tokens, tokens become text.

`engine` takes work from any thread; `scheduler` decides what runs next and calls the native runner;
`gate` cancels; `work` is what callers hand in;
`transcript` and `stopping` turn tokens into text; `prefix` reuses the cache; `streams` is how
callers wait; `results` is what they get.
"""

from __future__ import annotations

from llama_rt.generation.engine import Engine
from llama_rt.generation.results import (
    Chunk,
    Completion,
    FinishReason,
    Timings,
    TokenLogprob,
    Usage,
)
from llama_rt.generation.stopping import parse_stop
from llama_rt.generation.streams import (
    AsyncStream,
    Stream,
    collect,
    collect_async,
    run_forward,
)
from llama_rt.generation.transcript import Transcript
from llama_rt.generation.work import Forward, Request

__all__ = [
    "AsyncStream",
    "Chunk",
    "Completion",
    "Engine",
    "FinishReason",
    "Forward",
    "Request",
    "Stream",
    "Timings",
    "TokenLogprob",
    "Transcript",
    "Usage",
    "collect",
    "collect_async",
    "parse_stop",
    "run_forward",
]
