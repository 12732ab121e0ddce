"""How far `plan()` is off: what it predicts from headers against what a run then takes.

    python benchmarks/plan_error.py --shape 8x4096 --formats q4_0,q8_0,bf16 --write docs

The prediction comes first and from the file's headers alone; the run is `llama-rt bench` on the
same file, in a process of its own. Memory is weights, cache and workspace against the peak of the
process without the interpreter's own share (what `import llama_rt` takes).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

from models import models, parser_of_models
from report import publish

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
    args = parser_of_models(__doc__, ["q4_0", "q8_0", "bf16"]).parse_args()
    lines = [
        "| model | memory: planned / taken / error | decode tok/s | prompt tok/s |",
        "|---|---|---|---|",
    ]
    context = 512
    for format, model in models(args):
        planned = plan(model, n_ctx=context)
        lines.append(line(format, planned, run(model, context - 24)))
        print(lines[-1], flush=True)
    publish(lines, args.write, MARK)


if __name__ == "__main__":
    main()
