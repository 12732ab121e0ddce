"""A conversation as data: messages, and the changes that a person may make to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypedDict

__all__ = ["Conversation", "Message"]


class Message(TypedDict):
    """One message, as chat templates take them."""

    role: str
    content: str


class Conversation:
    """Messages in order: perhaps a system prompt, then turns of a user and the model.

    A turn begins with a user's message; its answer may be missing while it is being written.
    """

    def __init__(self, system: str | None = None) -> None:
        self.messages: list[Message] = []
        self.system = system

    @property
    def system(self) -> str | None:
        """The system prompt."""
        first = self.messages[:1]
        return first[0]["content"] if first and first[0]["role"] == "system" else None

    @system.setter
    def system(self, text: str | None) -> None:
        rest = [m for m in self.messages if m["role"] != "system"]
        head: list[Message] = [{"role": "system", "content": text}] if text else []
        self.messages = head + rest

    @property
    def turns(self) -> int:
        """User messages so far."""
        return sum(m["role"] == "user" for m in self.messages)

    @property
    def last_question(self) -> str | None:
        """The newest user message."""
        asked = [m["content"] for m in self.messages if m["role"] == "user"]
        return asked[-1] if asked else None

    def ask(self, text: str) -> None:
        """Begins a turn."""
        self.messages.append({"role": "user", "content": text})

    def answer(self, text: str) -> None:
        """Ends a turn."""
        self.messages.append({"role": "assistant", "content": text})

    def undo(self) -> str | None:
        """Takes the newest turn back; returns its question, None if there is no turn."""
        starts = self._starts()
        if not starts:
            return None
        question = self.messages[starts[-1]]["content"]
        del self.messages[starts[-1] :]
        return question

    def reset(self) -> None:
        """Forgets everything but the system prompt."""
        self.messages = [m for m in self.messages if m["role"] == "system"]

    def drop_oldest(self) -> bool:
        """Forgets the oldest turn; False, and nothing done, if only one is left."""
        starts = self._starts()
        if len(starts) < 2:
            return False
        del self.messages[starts[0] : starts[1]]
        return True

    def save(self, path: Path) -> None:
        """Writes the messages as JSON, the list that chat APIs take."""
        path.write_text(
            json.dumps(self.messages, ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
        )

    def _starts(self) -> list[int]:
        return [i for i, m in enumerate(self.messages) if m["role"] == "user"]
