"""The command `llama-rt`: parses, calls one command, gives the exit code.

Each command is a file of this folder. This one owns the exit codes: 0 done, 1 the work failed (one
line on standard error), 2 usage, 130 interrupted.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Sequence

from llama_rt.cli.console import Console
from llama_rt.cli.options import UsageError
from llama_rt.cli.parser import build_parser
from llama_rt.errors import LlamaRtError

__all__ = ["main"]

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

_OPTIONS = {
    "n_ctx": "--ctx",
    "kv_dtype": "--kv-dtype",
    "quantize": "--quantize",
    "chat_template": "--template",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: arguments without the program's name; the process's own if None.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    console = Console(sys.stdin, sys.stdout, sys.stderr)
    try:
        return _run(arguments, console)
    except KeyboardInterrupt:
        console.finish_line()
        console.note("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has seen enough; the interpreter must not flush into it either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def _run(arguments: list[str], console: Console) -> int:
    debug = "--debug" in arguments
    try:
        args = build_parser().parse(arguments)
        console.json = args.json
        code: int = args.command(args, console)
        console.flush()
    except UsageError as error:
        console.error(str(error))
        return USAGE
    except BrokenPipeError:
        raise
    except (LlamaRtError, OSError, MemoryError, ImportError, UnicodeError) as error:
        return _fail(error, _reason(error), console, debug=debug)
    except Exception as error:  # a fault of ours: still one line, and how to see more
        fault = f"{type(error).__name__}: {error} (a fault in llama-rt; --debug shows where)"
        return _fail(error, fault, console, debug=debug)
    return code


def _fail(error: BaseException, reason: str, console: Console, *, debug: bool) -> int:
    console.finish_line()
    if debug:
        console.note("".join(traceback.format_exception(error)).rstrip())
    console.error(" ".join(reason.split()))
    return FAILED


def _reason(error: BaseException) -> str:
    """What happened, in one line."""
    if isinstance(error, OSError) and not isinstance(error, LlamaRtError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    if isinstance(error, UnicodeError):
        return f"the text is not UTF-8: {error}"
    if isinstance(error, MemoryError):
        return f"out of memory: {error}" if str(error) else "out of memory"
    return _as_options(str(error)) or type(error).__name__


def _as_options(text: str) -> str:
    """The library's arguments, where a message names them, as this command's options."""
    text = text.replace("none is guessed: choose one of", "none is guessed: choose --template from")
    for argument, option in _OPTIONS.items():
        text = re.sub(rf"^{argument}: ", f"{option}: ", text)
        text = re.sub(rf"\b{argument}='?(\w+)'?", rf"{option} \1", text)
    return text
