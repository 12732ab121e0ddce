"""Results of compare.py as a table, as a roofline, and as a part of a document."""

from __future__ import annotations

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
        read_bytes_s: what the machine read from memory, the best of the run.
        prompt: tokens per second of a prompt by engine, one entry per round.
        decode: the same of decoding, by engine and number of sequences decoding together.
    """

    format: str
    weights: int
    streamed_bytes: int
    read_bytes_s: float
    prompt: dict[str, list[float]] = field(default_factory=dict)
    decode: dict[tuple[str, int], list[float]] = field(default_factory=dict)


def table(rows: list[Row], peak: float) -> str:
    """Medians, the shares of the machine's limits, and the median of our ratio to each engine.

    Args:
        rows: one per model.
        peak: multiply-adds per second of the fastest instruction.
    """
    lines = [
        "| model | what | engine | tok/s | of read bandwidth | of multiply peak | ours to its |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        for what, engine, batch, speeds, ours in _figures(row):
            speed = statistics.median(speeds)
            bandwidth = speed / batch * row.streamed_bytes / row.read_bytes_s if batch else None
            ratio = statistics.median(a / b for a, b in zip(ours, speeds, strict=True))
            lines.append(
                f"| {row.format} | {what} | {engine} | {speed:.2f} | "
                f"{'' if bandwidth is None else f'{bandwidth:.0%}'} | "
                f"{speed * row.weights / peak:.0%} | "
                f"{'' if engine == OURS else f'{ratio:.2f}x'} |"
            )
    return "\n".join(lines)


def _figures(row: Row) -> list[tuple[str, str, int, list[float], list[float]]]:
    """What, engine, sequences (0 for a prompt), its speeds, ours in the same rounds."""
    figures = [("prompt", name, 0, own, row.prompt[OURS]) for name, own in row.prompt.items()]
    for (name, batch), own in sorted(row.decode.items(), key=lambda item: item[0][1]):
        what = "decode" if batch == 1 else f"decode, {batch} sequences"
        figures.append((what, name, batch, own, row.decode[OURS, batch]))
    return figures


def roofline(rows: list[Row], peaks: dict[str, float], prompt: int, path: Path) -> None:
    """Achieved against limit: multiply-adds per second over multiply-adds per byte read.

    A decoding step does `batch` multiply-adds with every weight that it reads; a prompt as many as
    it has tokens (weights that stay in a cache are counted once).
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    bandwidth = max(row.read_bytes_s for row in rows)
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
        for _, engine, batch, speeds, _ in _figures(row):
            speed = statistics.median(speeds)
            axes.plot(
                row.weights * (batch or prompt) / row.streamed_bytes,
                speed * row.weights / 1e9,
                markers[engine],
                color=f"C{color}",
                fillstyle="full" if engine == OURS else "none",
            )
    for engine, marker in markers.items():
        axes.plot([], [], marker, color="black", label=engine)
    for color, row in enumerate(rows):
        axes.plot([], [], "s", color=f"C{color}", label=row.format)
    axes.set(xscale="log", yscale="log", xlim=spread)
    axes.set_xlabel("multiply-adds per byte of weights (left: one sequence; right: a prompt)")
    axes.set_ylabel("billion multiply-adds per second")
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _engines(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(figure[1] for row in rows for figure in _figures(row)))


def command_line() -> str:
    """The command that is running, as Markdown code, for a reader to repeat."""
    return f"`python benchmarks/{' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])}`"


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
