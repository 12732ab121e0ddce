"""One engine in a process of its own: loads a model once, then times what it is asked.

Started by compare.py as `engines.py NAME MODEL THREADS CONTEXT`; speaks JSON lines. A request is
`{"prompt": n}` (seconds to read n tokens into an empty context) or `{"generate": n}` (seconds to
decode n tokens after a few are in the context). While it waits nothing runs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Protocol

SEED_TOKENS = 8  # in the context before decoding starts
VOCABULARY = 32000


class Engine(Protocol):
    """What compare.py can ask."""

    def prompt(self, count: int) -> None:
        """Reads `count` tokens into an empty context."""

    def start(self) -> None:
        """An empty context with `SEED_TOKENS` tokens."""

    def generate(self, count: int) -> None:
        """Decodes `count` tokens, greedily."""


def ids(count: int) -> list[int]:
    """Ordinary token ids, the same for all engines."""
    return [(i * 7919) % (VOCABULARY - 1000) + 500 for i in range(count)]


class LlamaRt:
    """This project, through its native runner."""

    def __init__(self, model: str, threads: int, context: int) -> None:
        import numpy as np

        from llama_rt import _native
        from llama_rt.llama.weights import build_model
        from llama_rt.loading import open_checkpoint

        backend = _native.open_backend("cpu", threads=threads, isa=os.environ.get("COMPARE_ISA"))
        built = build_model(
            open_checkpoint(model), backend, quantize=None, repack="auto", progress=False
        )
        self._runner = _native.Runner(built, n_ctx=context)
        self._sequence = self._runner.create()
        self._sampler = _native.Sampler(VOCABULARY, temperature=0.0)
        self._array = np.array

    def _feed(self, count: int) -> None:
        self._runner.truncate(self._sequence, 0)
        for first in range(0, count, 512):
            tokens = self._array(ids(count)[first : first + 512], dtype="int32")
            self._runner.forward([self._sequence], [tokens])

    def prompt(self, count: int) -> None:
        self._feed(count)

    def start(self) -> None:
        self._feed(SEED_TOKENS)

    def generate(self, count: int) -> None:
        self._runner.decode([self._sequence], [500], [self._sampler], steps=count)


class LlamaCpp:
    """llama.cpp through llama-cpp-python."""

    def __init__(self, model: str, threads: int, context: int) -> None:
        import llama_cpp

        self._llm = llama_cpp.Llama(
            model, n_ctx=context, n_batch=512, n_ubatch=512, n_threads=threads,
            n_threads_batch=threads, verbose=False, logits_all=False,
        )  # fmt: skip

    def prompt(self, count: int) -> None:
        self._llm.reset()
        self._llm.eval(ids(count))

    def start(self) -> None:
        self._llm.reset()
        self._llm.eval(ids(SEED_TOKENS))

    def generate(self, count: int) -> None:
        token = 500
        for _ in range(count):
            self._llm.eval([token])
            token = self._llm.sample(temp=0.0)


class Transformers:
    """transformers on torch in bfloat16; the model's sizes with random weights."""

    def __init__(self, model: str, threads: int, context: int) -> None:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        layers = 8 if "8x4096" in model else 32
        config = LlamaConfig(num_hidden_layers=layers, max_position_embeddings=context)
        torch.set_default_dtype(torch.bfloat16)
        self._torch = torch
        self._model = LlamaForCausalLM(config).eval()
        self._cache: object = None

    def _run(self, tokens: list[int]) -> int:
        out = self._model(
            self._torch.tensor([tokens]), past_key_values=self._cache, use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        self._cache = out.past_key_values
        return int(out.logits[0, -1].argmax())

    def prompt(self, count: int) -> None:
        self._cache = None
        self._run(ids(count))

    def start(self) -> None:
        self._cache = None
        self._run(ids(SEED_TOKENS))

    def generate(self, count: int) -> None:
        token = 500
        for _ in range(count):
            token = self._run([token])


ENGINES: dict[str, Callable[[str, int, int], Engine]] = {
    "llama_rt": LlamaRt,
    "llama.cpp": LlamaCpp,
    "transformers": Transformers,
}


def main() -> None:
    """Loads, says so, then answers until the input ends."""
    name, model, threads, context = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    start = time.perf_counter()
    engine = ENGINES[name](model, int(threads), int(context))
    print(json.dumps({"load_s": time.perf_counter() - start}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "generate" in request:
            engine.start()
        start = time.perf_counter()
        if "generate" in request:
            engine.generate(request["generate"])
        else:
            engine.prompt(request["prompt"])
        print(json.dumps({"seconds": time.perf_counter() - start}), file=answers, flush=True)


if __name__ == "__main__":
    main()
