"""The models that benchmarks measure: random weights of a shape, one file at a time."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path


def parser_of_models(description: str, formats: Sequence[str]) -> argparse.ArgumentParser:
    """A command line that chooses models and says where results go.

    Args:
        description: the module's docstring, whose first line is shown.
        formats: what `--formats` is by default.
    """
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    add = parser.add_argument
    add("--shape", default="8x4096")
    add("--formats", type=lambda text: text.split(","), default=list(formats))
    add("--folder", type=Path, help="where the models are made and removed (default: temporary)")
    add("--write", type=Path, metavar="DOCS", help="put the results into DOCS/performance.md")
    return parser


def models(args: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """Format and file of each model that was chosen; a file is gone when the next one comes."""
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for format in args.formats:
            path = Path(folder) / f"{args.shape}-{format}.gguf"
            _write(path, args.shape, format)
            yield format, path
            path.unlink()


def _write(path: Path, shape: str, format: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "llama_rt", "bench", "--shape", shape, "--format", format, "--save",
         str(path), "--prompt", "0", "--generate", "0", "--repeat", "1", "--json"],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
