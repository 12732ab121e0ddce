"""Measures this project against its peers: same model, same run, in turn; medians and ratios.

    python benchmarks/compare.py --shape 8x4096 --formats q4_0,q8_0,bf16 --batches 1,8,32
    python benchmarks/compare.py --llama-bench path/to/a/fork/build/bin/llama-bench --write docs
    python benchmarks/compare.py --isa avx2 --llama-bench build/of/that/set/bin/llama-bench

Peers are measured if they are there: llama.cpp (`pip install llama-cpp-python`, or any
`llama-bench` given by `--llama-bench`, so that forks can be measured too) and transformers on torch
(bf16, random weights of the same sizes). Every round asks each engine once, one after the other,
while the others sleep, prompts first, then decoding; the machine's own limits are measured in the
same run: read bandwidth around every decoding, multiply instructions at the beginning.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from limits import beside_memory, multiply_peaks
from models import models, parser_of_models
from report import OURS, Row, command_line, roofline, table, write_between

from llama_rt import _native
from llama_rt.checkpoint import open_checkpoint

HERE = Path(__file__).parent
MODULES = {"llama.cpp": "llama_cpp", "transformers": "transformers"}
BATCHING = (OURS, "transformers")  # engines that are asked for several sequences together


class Worker:
    """A loaded engine in a process of its own."""

    def __init__(self, name: str, model: str, args: argparse.Namespace, context: int) -> None:
        command = [str(HERE / "engines.py"), name, model, str(args.threads), str(context)]
        self._process = subprocess.Popen(
            [sys.executable, *command], env={**os.environ, "LLAMA_RT_ISA": args.isa},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.load_s = self._answer()["load_s"]

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            msg = f"an engine ended with status {self._process.wait()}"
            raise RuntimeError(msg)
        answer: dict[str, float] = json.loads(line)
        return answer

    def seconds(self, **request: int) -> float:
        """How long one request took inside the engine."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()["seconds"]

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@contextmanager
def running(name: str, model: str, args: argparse.Namespace, context: int) -> Iterator[Worker]:
    """A worker that is closed at the end."""
    worker = Worker(name, model, args, context)
    try:
        yield worker
    finally:
        worker.close()


def llama_bench(
    binary: Path, model: Path, args: argparse.Namespace, prompt: int, generate: int
) -> float:
    """Tokens per second of a prompt or of decoding; the program loads the model again."""
    command = [str(binary), "-m", str(model), "-t", str(args.threads), "-p", str(prompt),
               "-n", str(generate), "-r", "1", "-o", "json",
               *args.llama_bench_options.split()]  # fmt: skip
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    speed: float = json.loads(output[output.index("[") :])[0]["avg_ts"]
    return speed


def peers(args: argparse.Namespace, format: str) -> list[str]:
    """The engines that can be measured here, this project first."""
    found = [name for name, module in MODULES.items() if importlib.util.find_spec(module)]
    if format != "bf16":
        found = [name for name in found if name != "transformers"]
    return [OURS, *(name for name in found if name not in args.without)]


def measure(model: Path, format: str, args: argparse.Namespace) -> Row:
    """All engines on one model, round by round."""
    context = args.prompt + args.generate + 64
    row = Row(format, *counted(model))
    forks = {binary.resolve().parents[2].name: binary for binary in args.llama_bench}
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(running(name, str(model), args, context))
            for name in peers(args, format)
        }

        def decode(name: str, batch: int) -> float:
            if name in forks:
                return llama_bench(forks[name], model, args, 0, args.generate)
            return (
                batch * args.generate / workers[name].seconds(generate=args.generate, batch=batch)
            )

        decodes = [
            (name, batch)
            for batch in args.batches
            for name in (*workers, *forks)
            if batch == 1 or name in BATCHING
        ]
        for worker in workers.values():  # the first time only warms up
            worker.seconds(prompt=args.prompt)
        for name, batch in decodes:
            if name in workers:
                decode(name, batch)
        for _ in range(args.rounds):
            for name, worker in workers.items():
                speed = args.prompt / worker.seconds(prompt=args.prompt)
                row.prompt.setdefault(name, []).append(speed)
            for name, binary in forks.items():
                speed = llama_bench(binary, model, args, args.prompt, 0)
                row.prompt.setdefault(name, []).append(speed)
            for name, batch in decodes:
                figure = beside_memory(args.threads, partial(decode, name, batch))
                row.decode.setdefault((name, batch), []).append(figure)
    return row


def counted(model: Path) -> tuple[int, int]:
    """Weights and bytes that one decoded token reads: all matrices but the embedding."""
    tensors = [
        t
        for t in open_checkpoint(model).tensors.values()
        if len(t.shape) == 2 and t.name != "tok_embeddings.weight"
    ]
    return sum(math.prod(t.shape) for t in tensors), sum(t.nbytes for t in tensors)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = parser_of_models(__doc__, ["q4_0", "q8_0", "bf16"])
    add = parser.add_argument
    add("--batches", type=lambda text: [int(n) for n in text.split(",")], default=[1, 8, 32])
    add("--threads", type=int, default=_native.cpu_info().default_threads)
    add(
        "--isa",
        default=_native.cpu_info().tiers[-1],
        help="highest ISA level of this project to use",
    )
    add("--prompt", type=int, default=512)
    add("--generate", type=int, default=32)
    add("--rounds", type=int, default=5)
    add("--llama-bench", type=Path, action="append", default=[], metavar="PATH",
        help="BUILD/bin/llama-bench of any fork; named by the folder that holds BUILD")  # fmt: skip
    add("--llama-bench-options", default="", help="for all of them, such as '-rtr 1 -fa 1'")
    add("--without", action="append", default=[], metavar="ENGINE")
    return parser.parse_args()


def main() -> None:
    """Makes each model, measures, prints the table."""
    args = arguments()
    peaks = multiply_peaks(args.threads)
    rows = []
    for format, model in models(args):
        rows.append(measure(model, format, args))
        print(table(rows[-1:], max(peaks.values())), flush=True)
    text = (
        f"{command_line()}: read bandwidth up to "
        f"{max(row.best_bandwidth() for row in rows) / 1e9:.1f} GB/s; "
        + ", ".join(f"{name} {peak / 1e9:.0f}" for name, peak in peaks.items())
        + f" billion multiply-adds per second; {args.threads} threads, medians of {args.rounds} "
        f"rounds.\n\n{table(rows, max(peaks.values()))}"
    )
    print(f"\n{text}")
    if args.write:
        roofline(rows, peaks, args.prompt, args.write / "roofline.png")
        write_between(
            args.write / "performance.md", "compare", f"{text}\n\n![roofline](roofline.png)"
        )


if __name__ == "__main__":
    main()
