"""One engine in a process of its own: loads a model once, then times what it is asked.

Started by compare.py as `engines.py NAME MODEL THREADS CONTEXT`; speaks JSON lines. A request is
`{"prompt": n}` (seconds to read n tokens into an empty context) or `{"generate": n, "batch": b}`
(seconds in which each of b sequences of a few tokens decodes n more). While it waits nothing runs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Protocol

from llama_rt import _native
from llama_rt.checkpoint import open_checkpoint

SEED_TOKENS = 8  # in the context before decoding starts
VOCABULARY = 32000
MAX_BATCH = 64


class Engine(Protocol):
    """What compare.py can ask."""

    def prompt(self, count: int) -> None:
        """Reads `count` tokens into an empty context."""

    def start(self, batch: int) -> None:
        """`batch` sequences of `SEED_TOKENS` tokens."""

    def generate(self, count: int) -> None:
        """Decodes `count` tokens of each sequence, greedily."""


def ids(count: int) -> list[int]:
    """Ordinary token ids, the same for all engines."""
    return [(i * 7919) % (VOCABULARY - 1000) + 500 for i in range(count)]


class LlamaRt:
    """This project, through its native runner."""

    def __init__(self, model: str, threads: int, context: int) -> None:
        import numpy as np

        from llama_rt.api.weights import build_model

        backend = _native.open_backend("cpu", threads=threads)
        built = build_model(
            open_checkpoint(model), backend, quantize=None, repack="auto", progress=False
        )
        self._runner = _native.Runner(built, n_ctx=context, cache_tokens=MAX_BATCH * context)
        self._sequences: list[int] = []
        self._array = np.array

    def _begin(self, batch: int, count: int) -> None:
        for sequence in self._sequences:
            self._runner.release(sequence)
        self._sequences = [self._runner.create() for _ in range(batch)]
        for sequence in self._sequences:
            for first in range(0, count, 512):
                tokens = self._array(ids(count)[first : first + 512], dtype="int32")
                self._runner.forward([sequence], [tokens])

    def prompt(self, count: int) -> None:
        self._begin(1, count)

    def start(self, batch: int) -> None:
        self._begin(batch, SEED_TOKENS)

    def generate(self, count: int) -> None:
        batch = len(self._sequences)
        samplers = [_native.Sampler(VOCABULARY, temperature=0.0) for _ in range(batch)]
        self._runner.decode(self._sequences, [500] * batch, samplers, steps=count)


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

    def start(self, batch: int) -> None:
        assert batch == 1
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
        sizes = open_checkpoint(model).config
        config = LlamaConfig(
            num_hidden_layers=sizes.n_layers, hidden_size=sizes.dim,
            intermediate_size=sizes.ffn_dim,
            num_attention_heads=sizes.n_heads, num_key_value_heads=sizes.n_kv_heads,
            vocab_size=sizes.vocab_size, max_position_embeddings=context,
        )  # fmt: skip
        torch.set_default_dtype(torch.bfloat16)
        self._torch = torch
        self._model = LlamaForCausalLM(config).eval()
        self._cache: object = None
        self._batch = 1

    def _run(self, rows: list[list[int]]) -> list[int]:
        out = self._model(
            self._torch.tensor(rows), past_key_values=self._cache, use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        self._cache = out.past_key_values
        tokens: list[int] = out.logits[:, -1].argmax(-1).tolist()
        return tokens

    def prompt(self, count: int) -> None:
        self._cache = None
        self._run([ids(count)])

    def start(self, batch: int) -> None:
        self._cache = None
        self._batch = batch
        self._run([ids(SEED_TOKENS)] * batch)

    def generate(self, count: int) -> None:
        tokens = [500] * self._batch
        for _ in range(count):
            tokens = self._run([[token] for token in tokens])


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
            engine.start(request["batch"])
        start = time.perf_counter()
        if "generate" in request:
            engine.generate(request["generate"])
        else:
            engine.prompt(request["prompt"])
        print(json.dumps({"seconds": time.perf_counter() - start}), file=answers, flush=True)


if __name__ == "__main__":
    main()
