"""The commands of a conversation: lines that begin with a slash."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llama_rt.cli.console import plural
from llama_rt.cli.session import Session
from llama_rt.errors import TemplateError

__all__ = ["Commands"]

HELP = """\
/help              this list
/reset             forget everything but the system prompt
/system [TEXT]     set the system prompt; without TEXT, take it away
/template [NAME]   use another chat template; without NAME, show the one in use
/undo              take the last question and its answer back
/edit [TEXT]       ask the last question again, changed to TEXT or as it was
/save PATH         write the conversation as JSON
/quit              leave"""


class Commands:
    """The commands that a person may give in a session, such as `/undo`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        # Each takes the rest of its line and says whether the session goes on.
        self._table: dict[str, Callable[[str], bool]] = {
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

    def run(self, line: str) -> bool:
        """Runs one line; False if the session is over."""
        name, _, rest = line[1:].partition(" ")
        command = self._table.get(name)
        if command is None:
            self._session.console.note(f"no command /{name}; /help lists them")
            return True
        return command(rest.strip())

    def _help(self, _: str) -> bool:
        self._session.console.note(HELP)
        return True

    def _reset(self, _: str) -> bool:
        self._session.conversation.reset()
        self._session.console.note("a new conversation")
        return True

    def _system(self, text: str) -> bool:
        self._session.conversation.system = text or None
        self._session.console.note("system prompt set" if text else "no system prompt")
        return True

    def _template(self, name: str) -> bool:
        if not name:
            self._session.console.note(
                f"template: {self._session.template or self._session.llm.template_name}"
            )
            return True
        try:
            self._session.llm.find_template(name)
        except TemplateError as error:
            self._session.console.note(str(error))
        else:
            self._session.template = name
            self._session.console.note(f"template: {name}")
        return True

    def _undo(self, _: str) -> bool:
        question = self._session.conversation.undo()
        self._session.console.note(
            "nothing to take back" if question is None else f"took back: {question}"
        )
        return True

    def _edit(self, text: str) -> bool:
        question = self._session.conversation.last_question
        if question is None:
            self._session.console.note("no question to change yet")
            return True
        if not text and self._session.console.interactive:
            text = self._edited(question)
        self._session.conversation.undo()
        self._session.say(text or question)
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
            self._session.console.note("where to? /save PATH")
            return True
        try:
            self._session.conversation.save(Path(path).expanduser())
        except OSError as error:
            self._session.console.note(f"not saved: {path}: {error.strerror}")
        else:
            self._session.console.note(
                f"saved {plural(len(self._session.conversation.messages), 'message')}: {path}"
            )
        return True

    def _quit(self, _: str) -> bool:
        return False
