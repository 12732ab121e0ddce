"""How long a short request waits for others, and a cancelled one for the step that it is in.

    python benchmarks/fairness.py --shape 8x4096 --format q4_0
    python benchmarks/fairness.py -m MODEL

Time to the first token of a 10-token prompt: alone, and sent while long prompts are read. Time from
closing a stream to its last event beside another prompt, and that of one layer of a 64-row step,
which bounds it. Medians of the rounds, all of one run.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from llama_rt import Llama

LONG, SHORT = 1900, 10


def prompt(length: int, seed: int) -> list[int]:
    """Ids that begin like no other prompt's."""
    return [1, *((7919 * (seed + 1) + 31 * i) % 20000 + 300 for i in range(length - 1))]


def first_token(llm: Llama, seed: int) -> float:
    """Seconds until a short prompt's first token."""
    began = time.perf_counter()
    llm.generate(prompt(SHORT, seed), max_tokens=1, temperature=0.0)
    return time.perf_counter() - began


def behind(llm: Llama, count: int, seed: int) -> float:
    """The same, sent while `count` long prompts are read."""
    others = [llm.stream(prompt(LONG, seed + 1 + i), max_tokens=1) for i in range(count)]
    time.sleep(1.0)
    took = first_token(llm, seed)
    for other in others:
        other.close()
    return took


def cancelled(llm: Llama, seed: int) -> float:
    """Seconds until a prompt that is being read beside another is cancelled."""
    leaving, staying = (llm.stream(prompt(LONG, seed + i), max_tokens=1) for i in range(2))
    time.sleep(1.0)
    began = time.perf_counter()
    leaving.close()
    finish = leaving.completion.finish_reason
    took = time.perf_counter() - began
    assert finish == "cancelled", finish
    staying.close()
    return took


def layer_of_64_rows(llm: Llama, seed: int) -> float:
    """Seconds of one layer of a step of 64 rows."""
    began = time.perf_counter()
    llm.generate(prompt(64, seed), max_tokens=1, temperature=0.0)
    return (time.perf_counter() - began) / llm.config.n_layers


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-m", "--model", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--shape", default="8x4096")
    parser.add_argument("--format", default="q4_0")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or Path(folder) / "model.gguf"
        if args.model is None:
            options = ["--shape", args.shape, "--format", args.format, "--save", str(model)]
            quick = ["--prompt", "0", "--generate", "1", "--repeat", "1"]
            command = [sys.executable, "-m", "llama_rt", "bench", *options, *quick]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with Llama.load(model, tokenizer=args.tokenizer, n_ctx=2048, progress=False) as llm:
            first_token(llm, 0)
            rows: dict[str, list[float]] = {}
            for i in range(args.rounds):
                seed = 100 * (i + 1)
                rows.setdefault("alone", []).append(first_token(llm, seed))
                for count in (1, 3):
                    took = behind(llm, count, seed + 10 * count)
                    rows.setdefault(f"behind {count} of {LONG} tokens", []).append(took)
                rows.setdefault("a cancel", []).append(cancelled(llm, seed + 50))
                layer = layer_of_64_rows(llm, seed + 60)
                rows.setdefault("a layer of 64 rows", []).append(layer)
    alone = statistics.median(rows["alone"])
    for name, values in rows.items():
        took = statistics.median(values)
        print(f"{name:28} {1e3 * took:8.1f} ms  {took / alone:5.1f} x alone")


if __name__ == "__main__":
    main()
