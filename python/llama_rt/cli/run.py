"""`llama-rt run`: continues a text.

The text goes to standard output as it is generated; what it took goes to standard error, in one
line.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from llama_rt.cli.console import Console
from llama_rt.cli.options import (
    UsageError,
    add_loading,
    add_model,
    add_sampling,
    load,
    read_text,
    sampling_params,
    utf8,
)
from llama_rt.cli.summary import as_json, summary

NAME = "run"
USAGE = "[-m MODEL] [options] [PROMPT ...]"
SUMMARY = "continue a text: argument, file or standard input"
EXAMPLES = """\
  llama-rt run "Once upon a time"
  llama-rt run -m path/to/model --temperature 0 --max-tokens 32 "The capital of France is"
  llama-rt run -m model.gguf --file story.txt --stop "The End" > rest.txt
  echo "Dear Sir," | llama-rt run --seed 7 --json
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("prompt", nargs="*", metavar="PROMPT", help="the text to continue")
    add_model(parser)
    parser.add_argument("--file", type=Path, metavar="PATH", help="read the prompt from a file")
    parser.add_argument(
        "--echo",
        action=argparse.BooleanOptionalAction,
        help="print the prompt before its continuation; on a terminal by default",
    )
    add_sampling(parser)
    add_loading(parser)


def execute(args: argparse.Namespace, console: Console) -> int:
    """Generates, and streams the text."""
    prompt = read_prompt(args, console)
    params = sampling_params(args)
    with load(args, console) as llm:
        echo = console.on_terminal if args.echo is None else args.echo
        if echo:
            console.write(prompt, "bold")
        with llm.stream(
            prompt, max_tokens=args.max_tokens, params=params, stop=args.stop or []
        ) as stream:
            for chunk in stream:
                console.write(chunk.text)
        done = stream.completion
        console.finish_line()
        if console.json:
            console.object({"prompt": prompt, **as_json(done)})
        else:
            console.note(summary(done))
    return 0


def read_prompt(args: argparse.Namespace, console: Console) -> str:
    """The prompt from the one place that gives it; a file's last line break is not part of it."""
    words = args.prompt
    if words and args.file is not None:
        msg = "a prompt and --file: give one of them"
        raise UsageError(msg)
    if words and words != ["-"]:
        return utf8(" ".join(words))
    if not words and args.file is None and (console.interactive or not console.has_input):
        msg = "no prompt: give it as an argument, with --file PATH, or on standard input"
        raise UsageError(msg)
    return read_text(args.file or Path("-"), console).removesuffix("\n")
