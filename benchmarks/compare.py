"""Measures this project beside its peers: same model, same run, in turn; medians and ratios.

    python benchmarks/compare.py --shape 8x4096 --formats q4_0,q8_0,bf16 --plot docs/roofline.png

Peers are measured if they are there: llama.cpp (`pip install llama-cpp-python`, or any
`llama-bench` given by `--llama-bench`, so that forks can be measured too) and transformers on torch
(bf16, random weights of the same sizes). Every round asks each engine once, one after the other,
while the others sleep; the machine's own read bandwidth is measured between the rounds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from llama_rt import _native
from llama_rt.loading import open_checkpoint

HERE = Path(__file__).parent
MODULES = {"llama.cpp": "llama_cpp", "transformers": "transformers"}


@dataclass
class Figures:
    """Tokens per second of one engine on one model, one entry per round."""

    prompt: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)


@dataclass
class Row:
    """One model's results."""

    format: str
    streamed_bytes: int
    read_bytes_s: float
    engines: dict[str, Figures]


class Worker:
    """A loaded engine in a process of its own."""

    def __init__(self, name: str, model: str, threads: int, context: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "engines.py"), name, model, str(threads), str(context)],
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
def running(name: str, model: str, threads: int, context: int) -> Iterator[Worker]:
    """A worker that is closed at the end."""
    worker = Worker(name, model, threads, context)
    try:
        yield worker
    finally:
        worker.close()


def llama_bench(binary: Path, model: str, args: argparse.Namespace) -> Figures:
    """One round of a `llama-bench`, which loads the model anew."""
    command = [str(binary), "-m", model, "-t", str(args.threads), "-p", str(args.prompt),
               "-n", str(args.generate), "-r", "1", "-o", "json"]  # fmt: skip
    rows = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    prompt = [row["avg_ts"] for row in rows if row["n_prompt"]]
    return Figures(prompt, [row["avg_ts"] for row in rows if row["n_gen"]])


def peers(args: argparse.Namespace) -> list[str]:
    """The engines that can be measured here, this project first."""
    found = [name for name, module in MODULES.items() if importlib.util.find_spec(module)]
    return ["llama_rt", *(name for name in found if name not in args.without)]


def measure(model: Path, format: str, args: argparse.Namespace) -> Row:
    """All engines on one model, round by round."""
    context = args.prompt + args.generate + 64
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(running(name, str(model), args.threads, context))
            for name in peers(args)
            if name != "transformers" or format == "bf16"
        }
        figures = {name: Figures() for name in workers}
        bandwidth = []
        for turn in range(args.rounds + 1):
            for name, worker in workers.items():
                prompt = args.prompt / worker.seconds(prompt=args.prompt)
                decode = args.generate / worker.seconds(generate=args.generate)
                if turn:  # the first round warms up
                    figures[name].prompt.append(prompt)
                    figures[name].decode.append(decode)
            for binary in args.llama_bench:
                own = figures.setdefault(binary.parent.name + "/llama-bench", Figures())
                result = llama_bench(binary, str(model), args)
                own.prompt += result.prompt
                own.decode += result.decode
            bandwidth.append(_native.read_bandwidth(args.threads, seconds=0.5))
    return Row(format, streamed_bytes(model), max(bandwidth), figures)


def streamed_bytes(model: Path) -> int:
    """Bytes of weights that one decoded token reads: all but the embedding."""
    tensors = open_checkpoint(model).tensors.values()
    return sum(t.nbytes for t in tensors if t.name != "tok_embeddings.weight")


def table(rows: list[Row]) -> str:
    """Medians, the share of the read bandwidth that decoding reaches, and our ratio to each."""
    lines = [
        "| model | engine | prompt tok/s | decode tok/s | of bandwidth | ours to its |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        ours = row.engines["llama_rt"]
        for name, own in row.engines.items():
            prompt, decode = statistics.median(own.prompt), statistics.median(own.decode)
            share = decode * row.streamed_bytes / row.read_bytes_s
            ratios = (
                statistics.median(a / b for a, b in zip(mine, theirs, strict=False))
                for mine, theirs in ((ours.prompt, own.prompt), (ours.decode, own.decode))
            )
            lines.append(
                f"| {row.format} | {name} | {prompt:.1f} | {decode:.2f} | {share:.0%} | "
                + " / ".join(f"{ratio:.2f}x" for ratio in ratios)
                + " |"
            )
    return "\n".join(lines)


def plot(rows: list[Row], path: Path) -> None:
    """Decode speed against what the memory allows, per format and engine."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    names = list(dict.fromkeys(name for row in rows for name in row.engines))
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        found = [(x, row) for x, row in enumerate(rows) if name in row.engines]
        speeds = [statistics.median(row.engines[name].decode) for _, row in found]
        axes.bar([x - 0.4 + (i + 0.5) * width for x, _ in found], speeds, width, label=name)
    for x, row in enumerate(rows):
        limit = row.read_bytes_s / row.streamed_bytes
        axes.hlines(limit, x - 0.45, x + 0.45, colors="black", linestyles="dashed")
    axes.set_xticks(range(len(rows)), [row.format for row in rows])
    axes.set_ylabel("tokens/s (dashed: read bandwidth / bytes per token)")
    axes.legend()
    figure.savefig(path, dpi=110)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", default="8x4096")
    parser.add_argument("--formats", default="q4_0,q8_0,bf16")
    parser.add_argument("--threads", type=int, default=_native.cpu_info().default_threads)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generate", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--llama-bench", type=Path, action="append", default=[], metavar="PATH")
    parser.add_argument("--without", action="append", default=[], metavar="ENGINE")
    parser.add_argument("--plot", type=Path)
    return parser.parse_args()


def main() -> None:
    """Makes each model, measures, prints the table."""
    args = arguments()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for format in args.formats.split(","):
            model = Path(folder) / f"{args.shape}-{format}.gguf"
            subprocess.run(
                [sys.executable, "-m", "llama_rt", "bench", "--shape", args.shape, "--format",
                 format, "--save", str(model), "--prompt", "0", "--generate", "0", "--repeat", "1",
                 "--json"],
                check=True, capture_output=True,
            )  # fmt: skip
            rows.append(measure(model, format, args))
            model.unlink()
            print(table(rows[-1:]), flush=True)
    print(f"\n{table(rows)}")
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
