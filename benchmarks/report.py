"""Results of compare.py as a table, as a roofline, and as a part of a document."""

from __future__ import annotations

import shlex
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path

OURS = "llama_rt"


@dataclass
class Row:
    """One model's results.

    Attributes:
        format: type of the model's matrices.
        weights: multiply-adds of one token: weights of all matrices but the embedding.
        streamed_bytes: bytes of the same weights.
        prompt: tokens per second of a prompt by engine, one entry per round.
        decode: the same of decoding, by engine and number of sequences decoding together, each
            with the bytes per second that the memory gave around it.
    """

    format: str
    weights: int
    streamed_bytes: int
    prompt: dict[str, list[float]] = field(default_factory=dict)
    decode: dict[tuple[str, int], list[tuple[float, float]]] = field(default_factory=dict)

    def best_bandwidth(self) -> float:
        """The most bytes per second that the memory gave."""
        return max(memory for speeds in self.decode.values() for _, memory in speeds)


def table(rows: list[Row], peak: float) -> str:
    """Medians, the shares of the machine's limits, and the median of our ratio to each engine.

    Decoding is compared as shares of the memory's speed of the moment, so that who was asked in a
    slow moment is not the loser for it.

    Args:
        rows: one per model.
        peak: multiply-adds per second of the fastest instruction.
    """
    lines = [
        "| model | what | engine | tok/s | memory, GB/s | of it | of multiply peak | ours to its |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        for figure in _figures(row):
            speed = statistics.median(figure.speeds)
            memory = share = ratio = ""
            if figure.memory:
                memory = f"{statistics.median(figure.memory) / 1e9:.1f}"
                share = f"{statistics.median(figure.shares):.0%}"
            if figure.engine != OURS:
                pairs = zip(figure.ours, figure.shares, strict=True)
                ratio = f"{statistics.median(a / b for a, b in pairs):.2f}x"
            lines.append(
                f"| {row.format} | {figure.what} | {figure.engine} | {speed:.2f} | {memory} | "
                f"{share} | {speed * row.weights / peak:.0%} | {ratio} |"
            )
    return "\n".join(lines)


@dataclass
class _Figure:
    """One engine at one task, an entry per round.

    Attributes:
        what: the task, as the table calls it.
        engine: its name.
        batch: sequences; 0 for a prompt.
        speeds: tokens per second.
        memory: bytes per second that the memory gave around it; empty for a prompt.
        shares: what is compared: of the memory's speed, or (prompt) the speeds.
        ours: the same of this project in the same rounds.
    """

    what: str
    engine: str
    batch: int
    speeds: list[float]
    memory: list[float]
    shares: list[float]
    ours: list[float]


def _figures(row: Row) -> list[_Figure]:
    figures = [
        _Figure("prompt", name, 0, own, [], own, row.prompt[OURS])
        for name, own in row.prompt.items()
    ]

    def shares(key: tuple[str, int]) -> list[float]:
        return [speed / key[1] * row.streamed_bytes / memory for speed, memory in row.decode[key]]

    for key in sorted(row.decode, key=lambda key: key[1]):
        name, batch = key
        what = "decode" if batch == 1 else f"decode, {batch} sequences"
        speeds, memory = map(list, zip(*row.decode[key], strict=True))
        figures.append(
            _Figure(what, name, batch, speeds, memory, shares(key), shares((OURS, batch)))
        )
    return figures


def roofline(rows: list[Row], peaks: dict[str, float], prompt: int, path: Path) -> None:
    """Achieved against limit: multiply-adds per second over multiply-adds per byte read.

    A decoding step does `batch` multiply-adds with every weight that it reads; a prompt as many as
    it has tokens (weights that stay in a cache are counted once). One sequence is plotted at its
    share of the memory's speed of the moment, against the best of the run.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    canvas, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    bandwidth = max(row.best_bandwidth() for row in rows)
    top = max(peaks.values())
    spread = [0.3, 3000.0]
    axes.plot(
        [spread[0], top / bandwidth], [spread[0] * bandwidth / 1e9, top / 1e9], "k--", linewidth=1
    )
    for name, peak in peaks.items():
        axes.hlines(peak / 1e9, peak / bandwidth, spread[1], colors="grey", linestyles="dashed")
        axes.text(spread[1], peak / 1e9, f" {name}", va="center", fontsize=7)
    markers = dict(zip(_engines(rows), "osv^Dx", strict=False))
    for color, row in enumerate(rows):
        for figure in _figures(row):
            achieved = statistics.median(figure.speeds) * row.weights
            if figure.batch == 1:  # bound by the memory, whose speed was another in each moment
                share = statistics.median(figure.shares)
                achieved = share * bandwidth * row.weights / row.streamed_bytes
            axes.plot(
                row.weights * (figure.batch or prompt) / row.streamed_bytes,
                achieved / 1e9,
                markers[figure.engine],
                color=f"C{color}",
                fillstyle="full" if figure.engine == OURS else "none",
            )
    for engine, marker in markers.items():
        axes.plot([], [], marker, color="black", label=engine)
    for color, row in enumerate(rows):
        axes.plot([], [], "s", color=f"C{color}", label=row.format)
    axes.set(xscale="log", yscale="log", xlim=spread)
    axes.set_xlabel("multiply-adds per byte of weights (left: one sequence; right: a prompt)")
    axes.set_ylabel("billion multiply-adds per second")
    axes.legend(fontsize=7, loc="lower right")
    canvas.savefig(path, dpi=110)
    plt.close(canvas)


def _engines(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(figure.engine for row in rows for figure in _figures(row)))


def command_line() -> str:
    """The command that is running, as Markdown code, for a reader to repeat."""
    return f"`python benchmarks/{shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}`"


def publish(lines: list[str], docs: Path | None, mark: str) -> None:
    """Prints the command and a table; puts them into `docs` at `mark` if a folder is given."""
    text = f"{command_line()}:\n\n" + "\n".join(lines)
    print(text)
    if docs:
        write_between(docs / "performance.md", mark, text)


def write_between(document: Path, mark: str, text: str) -> None:
    """Replaces what stands between the lines `<!-- MARK: begin -->` and `<!-- MARK: end -->`.

    Raises:
        ValueError: The document lacks them.
    """
    begin, end = f"<!-- {mark}: begin -->\n", f"<!-- {mark}: end -->\n"
    before, found, rest = document.read_text(encoding="utf-8").partition(begin)
    _, also_found, after = rest.partition(end)
    if not (found and also_found):
        msg = f"{document}: expected the lines {begin.strip()} and {end.strip()}"
        raise ValueError(msg)
    document.write_text(f"{before}{begin}{text}\n{end}{after}", encoding="utf-8")
