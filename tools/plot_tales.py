"""The loss curves of training runs as one CSV and one small plot.

python tools/plot_tales.py run/base run/small run/large --data run/data \
    --heldout tales_heldout.txt.xz --csv docs/tales_curve.csv --png docs/tales_curve.png

A run is called by its folder's name; runs that the CSV holds already and that are not given stay.
``--after RUN`` counts the given runs on from the end of one that is there, whose weights they began
with.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

from tales_data import load_corpus, read_stories

FIELDS = ("run", "parameters", "kind", "step", "tokens", "flops", "bits_per_character")


@dataclass(frozen=True)
class Point:
    """One measurement of a run; ``kind`` is train, heldout_20_stories or heldout."""

    run: str
    parameters: int
    kind: str
    step: int
    tokens: int
    flops: float
    bits_per_character: float


def read_points(log: Path, characters_per_token: dict[str, float]) -> list[Point]:
    """Points of a ``log.jsonl``; losses per token become bits per character.

    Args:
        log: written by ``train_tales.py``; a resumed run has written several start lines, and what
            an interruption undid was written twice: the later line holds.
        characters_per_token: by kind of text, ``train``, ``heldout_20_stories``, ``heldout``.

    Returns:
        Points in the order of (kind, step).
    """
    found: dict[tuple[str, int], Point] = {}
    parameters = 0
    for text in log.read_text().splitlines():
        line = json.loads(text)
        parameters = line.get("parameters", parameters)
        values = {
            "train": line.get("loss"),
            "heldout_20_stories": line.get("heldout_20_stories"),
            "heldout": line.get("heldout_nats"),
        }
        for kind, nats in values.items():
            if nats is not None:
                bits = nats / math.log(2) / characters_per_token[kind]
                found[kind, line["step"]] = Point(
                    log.parent.name, parameters, kind, line["step"], line["tokens"],
                    line["flops"], round(bits, 4),
                )  # fmt: skip
    return [found[key] for key in sorted(found)]


def characters_per_token(data: Path, stories: list[str]) -> dict[str, float]:
    """Characters per predicted token of the training text and of the held-out text.

    Args:
        data: folder of ``tales_data.py``.
        stories: the held-out stories, for the first 20 of them.

    Returns:
        By kind of point; the per-story BOS is not predicted and not counted.
    """
    train, heldout = load_corpus(data / "train.npz"), load_corpus(data / "heldout.npz")
    count = len(heldout.starts) - 1
    first = min(20, count)
    return {
        "train": train.characters / (len(train.ids) - 1),
        "heldout": heldout.characters / (len(heldout.ids) - count),
        "heldout_20_stories": sum(map(len, stories[:first])) / (heldout.starts[first] - first),
    }


def read_csv(path: Path) -> list[Point]:
    """The points of an earlier call; none if there was none."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            Point(
                row["run"], int(row["parameters"]), row["kind"], int(row["step"]),
                int(row["tokens"]), float(row["flops"]), float(row["bits_per_character"]),
            )
            for row in csv.DictReader(file)
        ]  # fmt: skip


def counted_on(points: list[Point], before: list[Point]) -> list[Point]:
    """Steps, tokens and effort added to those at the end of the run before."""
    end = max(before, key=lambda point: point.step)
    return [
        replace(p, step=end.step + p.step, tokens=end.tokens + p.tokens, flops=end.flops + p.flops)
        for p in points
    ]


def draw(points: list[Point], target: Path) -> None:
    """Plot training (thin) and held-out (dots, stars) bits per character over training effort."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.6), dpi=110)
    runs = sorted({(p.run, p.parameters) for p in points}, key=lambda item: item[1])
    for index, (run, parameters) in enumerate(runs):
        colour = f"C{index}"
        for kind, style in (("train", "-"), ("heldout_20_stories", "o"), ("heldout", "*")):
            part = [p for p in points if p.run == run and p.kind == kind]
            axes.plot(
                [p.flops / 1e13 for p in part], [p.bits_per_character for p in part], style,
                color=colour, lw=0.8, ms=9 if style == "*" else 4,
                label=f"{run}, {parameters / 1e6:.1f}M weights" if kind == "train" else None,
            )  # fmt: skip
    axes.set(xlabel="effort, 10^13 operations", ylabel="bits per character", ylim=(1.0, 2.3))
    axes.set_title(
        "line: training batches; dots: 20 held-out tales; star: all held out", fontsize=8
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(target)


def main() -> None:
    """Write the CSV and the plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", help="folders with a log.jsonl")
    parser.add_argument("--data", type=Path, required=True, help="folder of tales_data.py")
    parser.add_argument("--heldout", type=Path, required=True, help="the held-out text")
    parser.add_argument("--after", metavar="RUN", help="a run in the CSV that these went on from")
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--png", type=Path, required=True)
    args = parser.parse_args()
    per = characters_per_token(args.data, read_stories(args.heldout))
    given = {run.name for run in args.runs}
    points = [point for point in read_csv(args.csv) if point.run not in given]
    more = [point for run in args.runs for point in read_points(run / "log.jsonl", per)]
    if args.after:
        more = counted_on(more, [point for point in points if point.run == args.after])
    points += more
    with args.csv.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FIELDS)
        writer.writerows([getattr(point, name) for name in FIELDS] for point in points)
    draw(points, args.png)


if __name__ == "__main__":
    main()
