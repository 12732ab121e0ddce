"""`llama-rt convert`: any readable checkpoint to GGUF, tensor by tensor."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from llama_rt.cli.console import Console, duration, size
from llama_rt.errors import ConfigError, LlamaRtError

NAME = "convert"
SUMMARY = "write any readable checkpoint as GGUF, quantized or not"
EXAMPLES = """\
  llama-rt convert path/to/llama-7b llama-7b-q8_0.gguf --format q8_0
  llama-rt convert model-f16.gguf model-q4_0.gguf --format q4_0
  llama-rt convert path/to/model model.gguf --format bf16 --force
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("source", metavar="SRC", help="a folder, a file, or org/name on the Hub")
    parser.add_argument("target", type=Path, metavar="DST", help="the .gguf file to write")
    parser.add_argument("--format", required=True, metavar="F", help="f32, f16, bf16, q8_0 or q4_0")
    parser.add_argument("--force", action="store_true", help="replace DST if it exists")
    parser.add_argument("--base", metavar="MODEL", help="the model that a delta, SRC, is added to")
    parser.add_argument(
        "--adapter", action="append", metavar="PATH", help="a LoRA to merge; may be repeated"
    )


def execute(args: argparse.Namespace, console: Console) -> int:
    """Runs the command."""
    for option in ("base", "adapter"):
        if getattr(args, option):
            msg = f"--{option}: this version does not read deltas and adapters yet"
            raise ConfigError(msg)
    if args.target.suffix == ".safetensors":
        msg = f"{args.target}: this version writes GGUF only; end the name in .gguf"
        raise ConfigError(msg)
    if args.target.exists() and not args.force:
        msg = f"{args.target}: exists; --force replaces it"
        raise LlamaRtError(msg)
    from llama_rt.loading.convert import convert

    began = time.perf_counter()
    progress = None if console.err.isatty() and not console.json else False
    done = convert(args.source, args.target, args.format, overwrite=args.force, progress=progress)
    for note in done.notes:
        console.note(note)
    seconds = time.perf_counter() - began
    written = args.target.stat().st_size
    if console.json:
        console.object(
            {
                "path": str(args.target),
                "format": args.format,
                "bytes": written,
                "seconds": seconds,
            }
        )
    else:
        console.line(f"{args.target}  {size(written)}, {args.format}, {duration(seconds)}")
    return 0
