"""`llama-rt convert`: any readable checkpoint to GGUF or safetensors, tensor by tensor."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from llama_rt.checkpoint import Checkpoint, open_checkpoint
from llama_rt.cli.console import Console, duration, plural, size
from llama_rt.convert import convert, formats
from llama_rt.errors import LlamaRtError

NAME = "convert"
USAGE = "SRC DST --format F [options]"
SUMMARY = "write any checkpoint as GGUF or safetensors"
EXAMPLES = """\
  llama-rt convert path/to/llama-7b llama-7b-q8_0.gguf --format q8_0
  llama-rt convert model-f16.gguf model-q4_k_m.gguf --format q4_k_m
  llama-rt convert path/to/meta-model hugging-face-folder --format bf16
  llama-rt convert vicuna-7b-delta-v1.1 vicuna-7b --base path/to/llama-7b --format f16
  llama-rt convert path/to/llama-7b alpaca.gguf --adapter alpaca-lora-7b --format q8_0
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("source", metavar="SRC", help="a folder, a file, or org/name on the Hub")
    parser.add_argument(
        "target",
        type=Path,
        metavar="DST",
        help="a .gguf file to write, or a folder to make (safetensors)",
    )
    parser.add_argument(
        "--format",
        required=True,
        choices=formats(),
        metavar="F",
        help="f32, f16 or bf16; in GGUF also q8_0, q4_0, ... and recipes such as q4_k_m",
    )
    parser.add_argument(
        "--imatrix", metavar="FILE", help="weight errors by llama.cpp's importance matrix (GGUF)"
    )
    parser.add_argument("--force", action="store_true", help="replace a DST file that exists")
    parser.add_argument("--base", metavar="MODEL", help="the model that a delta, SRC, is added to")
    parser.add_argument(
        "--adapter", action="append", metavar="PATH", help="a LoRA to merge; may be repeated"
    )


def execute(args: argparse.Namespace, console: Console) -> int:
    """Converts, and prints what was written."""
    if args.target.is_file() and not args.force:
        msg = f"{args.target}: exists; --force replaces it"
        raise LlamaRtError(msg)
    began = time.perf_counter()
    progress = None if console.err.isatty() and not console.json else False
    done = convert(
        _source(args),
        args.target,
        args.format,
        imatrix=args.imatrix,
        overwrite=args.force,
        progress=progress,
    )
    seconds = time.perf_counter() - began
    if console.json:
        console.object(
            {
                "path": str(done.path),
                "format": done.format,
                "tensor_bytes": done.nbytes,
                "tensors": done.tensors,
                "notes": list(done.notes),
                "seconds": seconds,
            }
        )
        return 0
    for note in done.notes:
        console.note(note)
    what = f"{plural(done.tensors, 'tensor')}, {size(done.nbytes)}, {done.format}"
    console.line(f"wrote {done.path}: {what}, in {duration(seconds)}")
    return 0


def _source(args: argparse.Namespace) -> Checkpoint:
    """The checkpoint, with its base and adapters added."""
    if args.base is None:
        checkpoint = open_checkpoint(args.source)
    else:
        from llama_rt.checkpoint import open_delta

        checkpoint = open_delta(args.source, open_checkpoint(args.base))
    if args.adapter:
        from llama_rt.adapters import merge, open_adapter

        checkpoint = merge(checkpoint, [open_adapter(path) for path in args.adapter])
    return checkpoint
