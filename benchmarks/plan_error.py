"""How far `plan()` is off: what it predicts from headers beside what a run then takes.

    python benchmarks/plan_error.py --shape 8x4096 --formats q4_0,q8_0,bf16 --write docs

The prediction comes first and from the file's headers alone; the run is `llama-rt bench` on the
same file, in a process of its own. Memory is weights, cache and workspace against the peak of the
process without the interpreter's own share (what `import llama_rt` takes).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from compare import make_model
from report import command_line, write_between

from llama_rt import Plan, plan

MARK = "plan"


def run(model: Path, context: int) -> dict[str, float]:
    """Medians of a run: tokens per second of prompt and decoding, peak bytes."""
    command = [sys.executable, "-m", "llama_rt", "bench", "-m", str(model), "--prompt", "512",
               "--generate", "24", "--context", str(context), "--json"]  # fmt: skip
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    figures = json.loads(output)
    return {
        "decode": statistics.median(figures["decode"]["tok_s"]),
        "prompt": statistics.median(figures["prefill"]["tok_s"]),
        "memory": figures["peak_rss_bytes"] - bare_bytes(),
    }


def bare_bytes() -> int:
    """Resident bytes of a process that has only imported the package."""
    program = (
        "import llama_rt; "
        "print(next(l for l in open('/proc/self/status') if l.startswith('VmRSS')).split()[1])"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    return int(output) << 10


def line(format: str, planned: Plan, measured: dict[str, float]) -> str:
    """A row of the table: predicted, measured, error of each figure."""
    cells = [format]
    for predicted, took, shown in (
        (planned.total_bytes, measured["memory"], "{:.3g} GB"),
        (planned.decode_tok_s, measured["decode"], "{:.3g}"),
        (planned.prefill_tok_s, measured["prompt"], "{:.3g}"),
    ):
        unit = 1e9 if shown.endswith("GB") else 1.0
        cells.append(
            f"{shown.format(predicted / unit)} / {shown.format(took / unit)} / "
            f"{predicted / took - 1:+.0%}"
        )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Predicts, runs, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", default="8x4096")
    parser.add_argument(
        "--formats", type=lambda text: text.split(","), default=["q4_0", "q8_0", "bf16"]
    )
    parser.add_argument("--folder", type=Path, help="where the models are made and removed")
    parser.add_argument(
        "--write", type=Path, metavar="DOCS", help="put the table into DOCS/performance.md"
    )
    args = parser.parse_args()
    lines = [
        "| model | memory: planned / taken / error | decode tok/s | prompt tok/s |",
        "|---|---|---|---|",
    ]
    context = 512
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for format in args.formats:
            model = Path(folder) / f"{args.shape}-{format}.gguf"
            make_model(model, args.shape, format)
            planned = plan(model, n_ctx=context)
            lines.append(line(format, planned, run(model, context - 24)))
            model.unlink()
            print(lines[-1], flush=True)
    text = f"{command_line()}:\n\n" + "\n".join(lines)
    print(text)
    if args.write:
        write_between(args.write / "performance.md", MARK, text)


if __name__ == "__main__":
    main()
