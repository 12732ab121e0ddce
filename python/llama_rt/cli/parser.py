"""The grammar of the command line, and what a misspelt word is answered with."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from typing import NoReturn

from llama_rt.cli.options import UsageError

__all__ = ["Parser", "build_parser"]

_SUMMARY = """\
Runs models of the LLaMA family on this computer: Meta folders, Hugging Face folders, GGUF files.
Without -m it is the built-in model.

examples:
  llama-rt run "Once upon a time"
  llama-rt run -m path/to/model --temperature 0 "The capital of France is"
  llama-rt chat -m path/to/model
  llama-rt info path/to/model

`llama-rt COMMAND --help` has each command's options and examples.
"""


class Parser(argparse.ArgumentParser):
    """argparse that raises instead of exiting, and says what was probably meant."""

    def error(self, message: str) -> NoReturn:
        """Raises the message as a `UsageError`, with the way to more help."""
        msg = f"{_helpful(message)} (see '{self.prog} --help')"
        raise UsageError(msg)

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parses all arguments; an unknown one is answered with its nearest neighbours."""
        args, unknown = self.parse_known_args(list(arguments))
        speaker: Parser = getattr(args, "parser", self)
        if unknown:
            word = unknown[0]
            close = difflib.get_close_matches(
                word.split("=")[0], speaker.options(), n=1, cutoff=0.6
            )
            kind = "option" if word.startswith("-") else "argument"
            meant = f"; did you mean {close[0]}?" if close and kind == "option" else ""
            speaker.error(f"unknown {kind} {word}{meant}")
        if not hasattr(args, "command"):
            self.error("which command? run, chat, info, convert, bench, perplexity or doctor")
        return args

    def options(self) -> list[str]:
        """Every option string of this parser."""
        return [word for action in self._actions for word in action.option_strings]


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Help with a wide column for long option names."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)


def _helpful(message: str) -> str:
    """What argparse says, without its jargon; of a wrong choice, with the nearest right one."""
    message = message.removeprefix("argument ")
    wrong = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
    if wrong is None:
        message = re.sub(r"invalid float value: ('.*')$", r"\1 is not a number", message)
        return re.sub(r"invalid int value: ('.*')$", r"\1 is not a whole number", message)
    choices = re.findall(r"[\w.\-]+", wrong[2])
    close = difflib.get_close_matches(wrong[1], choices, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]}?" if close else ""
    name = message.split(":")[0].replace("COMMAND", "command")
    return f"unknown {name} '{wrong[1]}'; there are {', '.join(choices)}{hint}"


def build_parser() -> Parser:
    """The parser with all commands."""
    from llama_rt import __version__
    from llama_rt.cli import bench, chat, convert, doctor, info, perplexity, run

    parser = Parser(
        prog="llama-rt",
        description=_SUMMARY,
        formatter_class=_Formatter,
        usage="llama-rt COMMAND [options]",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"llama-rt {__version__}")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", prog="llama-rt", parser_class=Parser
    )
    for module in (run, chat, info, convert, bench, perplexity, doctor):
        child = commands.add_parser(
            module.NAME,
            help=module.SUMMARY,
            description=f"{module.SUMMARY[0].upper()}{module.SUMMARY[1:]}.",
            epilog=f"examples:\n{module.EXAMPLES}",
            formatter_class=_Formatter,
            usage=f"llama-rt {module.NAME} {module.USAGE}",
            allow_abbrev=False,
        )
        module.add_options(child)
        common = child.add_argument_group("output")
        common.add_argument("--json", action="store_true", help="print one JSON object")
        common.add_argument("--debug", action="store_true", help="show a traceback on failure")
        child.set_defaults(command=module.execute, parser=child)
    return parser
