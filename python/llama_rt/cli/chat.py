"""`llama-rt chat`: a conversation in the terminal, or line by line through a pipe.

What was said before stays in the model's cache, so each turn costs only what is new. Nothing is
forgotten unasked: a conversation that outgrows the context asks before it drops its oldest turns.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from pathlib import Path

from llama_rt import Completion, Llama, SamplingParams
from llama_rt.cli.console import Console, plural
from llama_rt.cli.conversation import Conversation
from llama_rt.cli.options import (
    add_loading,
    add_model,
    add_sampling,
    load,
    sampling_params,
    stop_texts,
)
from llama_rt.cli.report import as_json, summary
from llama_rt.errors import CapacityError, TemplateError

NAME = "chat"
SUMMARY = "hold a conversation in the terminal"
EXAMPLES = """\
  llama-rt chat -m path/to/model
  llama-rt chat -m path/to/model --system "You answer in one sentence." --temperature 0
  llama-rt chat -m model.gguf --template vicuna
  printf 'Hello!\\nAnd in French?\\n' | llama-rt chat -m path/to/model

Inside, /help lists what can be done to the conversation. A line that ends in \\ goes on in the
next. Ctrl-C stops an answer; at the prompt it leaves, as Ctrl-D does.
"""

HELP = """\
/help              this list
/reset             forget everything but the system prompt
/system [TEXT]     set the system prompt; without TEXT, take it away
/template [NAME]   use another chat template; without NAME, show the one in use
/undo              take the last question and its answer back
/edit [TEXT]       ask the last question again, changed to TEXT or as it was
/save PATH         write the conversation as JSON
/quit              leave"""

# An answer needs room: at least this share of the context is freed when turns are dropped.
_ROOM = 4


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    add_model(parser)
    parser.add_argument("--system", metavar="TEXT", help="the system prompt")
    parser.add_argument(
        "--drop-oldest",
        action="store_true",
        help="when the context is full, drop the oldest turns without asking",
    )
    add_sampling(parser)
    add_loading(parser)


def execute(args: argparse.Namespace, console: Console) -> int:
    """Runs the command."""
    params = sampling_params(args)
    with load(args, console) as llm:
        session = Session(llm, console, params, args)
        session.greet()
        session.run()
        if console.json:
            console.object(session.as_json())
    return 0


class Session:
    """One person, one model, one conversation."""

    def __init__(
        self, llm: Llama, console: Console, params: SamplingParams, args: argparse.Namespace
    ) -> None:
        self.llm = llm
        self.console = console
        self.params = params
        self.max_tokens: int | None = args.max_tokens
        self.stop = stop_texts(args)
        self.drop_unasked: bool = args.drop_oldest
        self.template: str | None = None  # None: what the model was loaded with
        self.conversation = Conversation(args.system)
        self.turns: list[Completion] = []
        self._commands: dict[str, Callable[[str], bool]] = {
            "help": self._help,
            "reset": self._reset,
            "system": self._system,
            "template": self._template,
            "undo": self._undo,
            "edit": self._edit,
            "save": self._save,
            "quit": self._quit,
            "exit": self._quit,
        }

    def greet(self) -> None:
        """Says who is there, to a person."""
        if self.console.interactive:
            with contextlib.suppress(ImportError):  # line editing; input() finds it by itself
                import readline  # noqa: F401
            name = self.llm.config.name or "the model"
            self.console.note(f"{name}, context {plural(self.llm.n_ctx, 'token')}. /help helps.")

    def run(self) -> None:
        """Reads and answers until the end of the input."""
        while (line := self._read()) is not None:
            text = line.strip()
            if text.startswith("/"):
                name, _, rest = text[1:].partition(" ")
                command = self._commands.get(name)
                if command is None:
                    self.console.note(f"no command /{name}; /help lists them")
                elif not command(rest.strip()):
                    return
            elif text:
                self.say(text)

    def say(self, text: str) -> None:
        """One turn: asks, streams the answer, reports; a failed turn leaves no trace."""
        self.conversation.ask(text)
        try:
            done = self._answer_within_context()
        except BaseException:
            self.conversation.undo()
            raise
        if done is None:
            self.conversation.undo()
            return
        self.conversation.answer(done.text)
        self.turns.append(done)
        used = f"context {done.usage.total_tokens:,} of {self.llm.n_ctx:,}"
        self.console.note(f"{summary(done)} · {used}")
        if done.finish_reason == "length" and done.usage.total_tokens >= self.llm.n_ctx:
            self.console.note("the context is full: the answer stops here")

    def _answer_within_context(self) -> Completion | None:
        """The answer; turns are dropped, if the person agrees, until there is room for one."""
        while True:
            try:
                return self._answer()
            except CapacityError as error:
                if not self._make_room(error):
                    return None

    def _answer(self) -> Completion:
        stream = self.llm.chat_stream(
            self.conversation.messages,
            template=self.template,
            max_tokens=self.max_tokens,
            params=self.params,
            stop=self.stop,
        )
        with stream:
            try:
                for chunk in stream:
                    self.console.write(chunk.text)
            except KeyboardInterrupt:
                if not self.console.interactive:
                    raise
                stream.close()
            done = stream.completion
        self.console.finish_line()
        return done

    def _make_room(self, error: CapacityError) -> bool:
        """Drops the oldest turns if the person agrees; True if something was dropped."""
        if self.conversation.turns < 2:
            self.console.note(f"this message alone does not fit: {error}")
            return False
        self.console.note(f"the conversation has outgrown the context: {error}")
        if not self.drop_unasked:
            if not self.console.interactive:
                msg = f"{error}; --drop-oldest forgets the oldest turns as needed"
                raise CapacityError(msg) from error
            if not self._agrees("drop the oldest turns? [Y/n] "):
                self.console.note("nothing dropped; /reset starts anew, /undo takes a turn back")
                return False
        dropped = 0
        share = max(1, self.conversation.turns // _ROOM)
        while dropped < share and self.conversation.drop_oldest():
            dropped += 1
        self.console.note(f"dropped {plural(dropped, 'turn')}")
        return dropped > 0

    def _agrees(self, question: str) -> bool:
        answer = self._read(question)
        return answer is not None and answer.strip().lower() in {"", "y", "yes"}

    def _read(self, prompt: str = "> ") -> str | None:
        """A line, with its continuations; None at the end of the input."""
        lines: list[str] = []
        while True:
            try:
                if self.console.interactive:
                    line = input(prompt if not lines else ". ")
                else:
                    line = self.console.source.readline()
                    if not line:
                        raise EOFError
            except EOFError:
                return "\n".join(lines) if lines else None
            line = line.rstrip("\n")
            if not line.endswith("\\"):
                return "\n".join([*lines, line])
            lines.append(line[:-1])

    def as_json(self) -> dict[str, object]:
        """The conversation and what each answer took."""
        return {
            "messages": self.conversation.messages,
            "completions": [as_json(done) for done in self.turns],
        }

    # Commands: each takes the rest of its line and says whether the session goes on.

    def _help(self, _: str) -> bool:
        self.console.note(HELP)
        return True

    def _reset(self, _: str) -> bool:
        self.conversation.reset()
        self.console.note("a new conversation")
        return True

    def _system(self, text: str) -> bool:
        self.conversation.system = text or None
        self.console.note("system prompt set" if text else "no system prompt")
        return True

    def _template(self, name: str) -> bool:
        if not name:
            self.console.note(f"template: {self.template or self.llm.template_name}")
            return True
        try:
            self.llm.find_template(name)
        except TemplateError as error:
            self.console.note(str(error))
        else:
            self.template = name
            self.console.note(f"template: {name}")
        return True

    def _undo(self, _: str) -> bool:
        question = self.conversation.undo()
        self.console.note("nothing to take back" if question is None else f"took back: {question}")
        return True

    def _edit(self, text: str) -> bool:
        question = self.conversation.last_question
        if question is None:
            self.console.note("no question to change yet")
            return True
        if not text and self.console.interactive:
            text = self._edited(question)
        self.conversation.undo()
        self.say(text or question)
        return True

    def _edited(self, question: str) -> str:
        """The question after the person has changed it on the line."""
        try:
            import readline
        except ImportError:
            return question
        readline.set_startup_hook(lambda: readline.insert_text(question))
        try:
            return input("> ").strip() or question
        except EOFError:
            return question
        finally:
            readline.set_startup_hook()

    def _save(self, path: str) -> bool:
        if not path:
            self.console.note("where to? /save PATH")
            return True
        try:
            self.conversation.save(Path(path).expanduser())
        except OSError as error:
            self.console.note(f"not saved: {path}: {error.strerror}")
        else:
            self.console.note(f"saved {plural(len(self.conversation.messages), 'message')}: {path}")
        return True

    def _quit(self, _: str) -> bool:
        return False
