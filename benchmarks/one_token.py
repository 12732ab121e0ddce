"""Where the time of a token goes when the built-in model writes one text at the default sampling.

    python benchmarks/one_token.py

Three clocks, read in turn in every round: the ops of the graph as the backend's profile has them,
the native loop around them (which also samples), and `Llama.generate` as a caller sees it (which
also turns tokens into text). Their differences are what each adds; medians over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from llama_rt import Llama, _native

PROMPT = "Once upon a time"
PRODUCTS = ("matmul", "attention")


def decode(runner: _native.Runner, ids: list[int], vocab: int, tokens: int) -> float:
    """Microseconds per token of the native loop at the default sampling, from `ids` on."""
    sequence = runner.create()
    runner.forward([sequence], [np.array(ids[:-1], dtype=np.int32)], outputs="none")
    began = time.perf_counter()
    runner.decode([sequence], ids[-1:], [_native.Sampler(vocab, seed=1)], steps=tokens)
    spent = time.perf_counter() - began
    runner.release(sequence)
    return spent / tokens * 1e6


def generate(llm: Llama, tokens: int) -> float:
    """Microseconds per token after the first, as the completion reports them."""
    done = llm.generate(PROMPT, seed=1, max_tokens=tokens)
    if done.usage.completion_tokens != tokens:
        msg = f"the tale ended after {done.usage.completion_tokens} tokens; choose fewer --tokens"
        raise SystemExit(msg)
    return done.timings.decode_s / done.timings.decode_tokens * 1e6


def main() -> None:
    """Prints the shares."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=25)
    args = parser.parse_args()
    whole: list[float] = []
    loop: list[float] = []
    profiles: list[dict[str, float]] = []
    with Llama.load(progress=False) as llm:
        runner = llm._open().runner  # the one that `generate` uses: the same memory and threads
        ids, vocab = llm.tokenizer.encode(PROMPT), llm.config.vocab_size
        for _ in range(args.rounds):
            whole.append(generate(llm, args.tokens))
            loop.append(decode(runner, ids, vocab, args.tokens))
            runner.profile(True)
            decode(runner, ids, vocab, args.tokens)
            profiles.append(runner.profile(False))
    ops = {op: statistics.median(p[op] for p in profiles) / args.tokens * 1e6 for op in profiles[0]}
    total = statistics.median(whole)
    parts = {op: ops[op] for op in PRODUCTS}
    parts["other ops"] = sum(ops.values()) - sum(parts.values())
    parts["drawing and loop"] = statistics.median(loop) - sum(ops.values())
    parts["text and Python"] = total - statistics.median(loop)
    for name, part in parts.items():
        print(f"{name:<16} {part:7.1f} us {part / total:6.1%}")
    print(f"{'a token':<16} {total:7.1f} us, {1e6 / total:,.0f} tokens/s")


if __name__ == "__main__":
    main()
