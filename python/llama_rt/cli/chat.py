"""`llama-rt chat`: a conversation in the terminal, or line by line through a pipe.

The conversation so far stays in the model's cache, so each turn costs only what is new. Nothing is
forgotten unasked: a conversation that outgrows the context asks before it drops its oldest turns.
"""

from __future__ import annotations

import argparse
import json

from llama_rt.api import identify
from llama_rt.cli.commands import Commands
from llama_rt.cli.console import Console
from llama_rt.cli.options import (
    UsageError,
    add_loading,
    add_model,
    add_sampling,
    load,
    named_path,
    sampling_params,
    utf8,
)
from llama_rt.cli.session import Session

NAME = "chat"
USAGE = "[-m MODEL] [options]"
SUMMARY = "hold a conversation in the terminal"
EXAMPLES = """\
  llama-rt chat -m path/to/model
  llama-rt chat -m path/to/model --system "You answer in one sentence." --temperature 0
  llama-rt chat -m model.gguf --template vicuna
  printf 'Hello!\\nAnd in French?\\n' | llama-rt chat -m path/to/model

Inside, /help lists what can be done to the conversation. A line that ends in \\ goes on in the
next. Ctrl-C stops an answer; at the prompt it leaves, as Ctrl-D does.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    add_model(parser)
    parser.add_argument("--system", metavar="TEXT", help="the system prompt")
    parser.add_argument(
        "--drop-oldest",
        action="store_true",
        help="when the context is full, drop the oldest turns without asking",
    )
    parser.add_argument(
        "--chat-template-kwargs",
        type=_variables,
        metavar="JSON",
        help="variables of the chat template, such as '{\"enable_thinking\": false}'",
    )
    add_sampling(parser)
    add_loading(parser)


def _variables(text: str) -> dict[str, object]:
    """An object in JSON; the template is told what it holds."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        msg = f"'{text}' is not an object in JSON, such as {{\"enable_thinking\": false}}"
        raise argparse.ArgumentTypeError(msg)
    return value


def execute(args: argparse.Namespace, console: Console) -> int:
    """Opens the session and runs it to its end."""
    sampling_params(args)  # a mistake in them is told before the model is loaded
    system = utf8(args.system or "")
    if args.model is None and args.template is None:
        msg = "the built-in model tells tales (llama-rt run) and holds no conversations: name a "
        msg += "chat model with -m MODEL"
        raise UsageError(msg)
    with load(args, console) as llm:
        session = Session(
            llm,
            console,
            lambda defaults: sampling_params(args, defaults),
            system=system,
            max_tokens=args.max_tokens,
            stop=args.stop or [],
            drop_oldest=args.drop_oldest,
            variables=args.chat_template_kwargs or {},
        )
        if llm.template_name is None:
            _recognise(args, session, console)
        session.run(Commands(session).run)
        if console.json:
            console.object(session.as_json())
    return 0


def _recognise(args: argparse.Namespace, session: Session, console: Console) -> None:
    """Takes the prompts of something whose content tells which project it is, and says so."""
    given = [args.model] if args.base else []
    given += [named_path(text)[1] for text in args.adapter or []]
    known = [found for path in given if (found := identify(path)).certain]
    if len(known) == 1:
        session.template = known[0].template
        console.note(f"template: {known[0].template}, {known[0].why_template}")
