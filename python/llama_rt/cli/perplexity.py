"""`llama-rt perplexity`: how well a model predicts a text."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

from llama_rt import evaluation
from llama_rt.cli.console import Console, duration, plural
from llama_rt.cli.options import (
    UsageError,
    add_loading,
    add_model,
    load,
    positive,
    read_text,
    whole,
)

NAME = "perplexity"
USAGE = "[-m MODEL] FILE [options]"
SUMMARY = "measure how well a model predicts a text"
EXAMPLES = """\
  llama-rt perplexity -m model.gguf wiki.test.raw
      as llama.cpp does: windows of 512 tokens, the second half of each scored
  llama-rt perplexity -m path/to/model wiki.test.raw --ctx 2048 --stride 2048 --wikitext-rows
      as in papers: windows of 2048, every token of each scored
"""
_DEFAULT_WINDOW = 512


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("file", type=Path, metavar="FILE", help="the text, UTF-8; - is stdin")
    add_model(parser)
    parser.add_argument(
        "--stride",
        type=positive,
        metavar="N",
        help="move the window (--ctx) by N tokens and score each token once, with what the window "
        "holds before it; without it, as llama.cpp does",
    )
    parser.add_argument(
        "--windows", type=positive, metavar="N", help="stop after the first N windows"
    )
    parser.add_argument(
        "--wikitext-rows",
        action="store_true",
        help="read wiki.test.raw as the rows of the data set, joined by blank lines",
    )
    add_loading(
        parser,
        ctx={
            "type": whole(evaluation.MIN_WINDOW),
            "help": f"tokens of a window (default {_DEFAULT_WINDOW}, or the model's context)",
        },
    )


def execute(args: argparse.Namespace, console: Console) -> int:
    """Scores the text, and prints the perplexity."""
    if args.stride and args.stride > (args.ctx or _DEFAULT_WINDOW):
        msg = f"--stride {args.stride} is longer than the window (--ctx)"
        raise UsageError(msg)
    text = read_text(args.file, console)
    if args.wikitext_rows:
        text = evaluation.wikitext_rows(text)
    began = time.perf_counter()
    last = None
    with load(args, console) as llm:
        window = args.ctx or min(_DEFAULT_WINDOW, llm.n_ctx)
        for last in evaluation.perplexity(llm, text, ctx=window, stride=args.stride):
            elapsed = time.perf_counter() - began
            _show(last, elapsed, console)
            if last.window == args.windows:
                break
    if last is None:  # a text shorter than a window has raised before
        msg = "no window was scored"
        raise UsageError(msg)
    elapsed = time.perf_counter() - began
    console.end_progress()
    if console.json:
        console.object(
            {
                "perplexity": _figure(last.perplexity),
                "error": _figure(last.error),
                "nll": _figure(last.nll / last.tokens),
                "tokens": last.tokens,
                "windows": last.window,
                "ctx": window,
                "stride": args.stride,
                "seconds": elapsed,
            }
        )
    else:
        console.line(f"perplexity {last.perplexity:.4f} +/- {last.error:.4f}")
        console.note(f"{plural(last.tokens, 'token')} scored in {duration(elapsed)}")
    return 0


def _figure(value: float) -> float | None:
    """A figure as JSON has it, which knows no infinity: the error of a single token is one."""
    return value if math.isfinite(value) else None


def _show(state: evaluation.Progress, elapsed: float, console: Console) -> None:
    """The running figure: a line that is rewritten on a terminal, ten lines in a log."""
    left = elapsed / state.window * (state.windows - state.window)
    figure = f"window {state.window} of {state.windows}: {state.perplexity:.4f}"
    tenth = max(1, state.windows // 10)
    console.progress(
        f"{figure}, {duration(left)} left", keep=state.window % tenth == 0 and not console.json
    )
