"""Conversations as callers give them, checked; no template and no tokenizer here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llama_rt.errors import TemplateError

__all__ = ["Message", "check_messages", "check_order"]

_ROLES = ("system", "developer", "user", "assistant", "tool", "ipython", "function")


@dataclass(frozen=True, slots=True)
class Message:
    """One checked message.

    Attributes:
        role: One of the roles a conversation knows.
        content: Its text ("" for a call of tools without text).
        extra: The other keys, as given (`input`, `tool_calls`, ...).
    """

    role: str
    content: str
    extra: Mapping[str, object]


def check_messages(messages: object) -> list[Message]:
    """Checks types and roles.

    Args:
        messages: A sequence of mappings with `role` and `content`; `content` is a str or a list of
            `{"type": "text", "text": str}`.

    Raises:
        TemplateError: Something else came; names the index and what is expected.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        found = type(messages).__name__
        msg = f"messages: expected a list of {{'role': ..., 'content': ...}}, got {found}"
        raise TemplateError(msg)
    if not messages:
        msg = "messages: expected at least one message, got none"
        raise TemplateError(msg)
    return [_check_message(message, index) for index, message in enumerate(messages)]


def _check_message(message: object, index: int) -> Message:
    if not isinstance(message, Mapping):
        found = type(message).__name__
        msg = f"messages[{index}]: expected {{'role': ..., 'content': ...}}, got {found}"
        raise TemplateError(msg)
    role = message.get("role")
    if role not in _ROLES:
        msg = f"messages[{index}]['role']: expected one of {', '.join(_ROLES)}, got {role!r}"
        raise TemplateError(msg)
    extra = {str(key): value for key, value in message.items() if key not in ("role", "content")}
    content = message.get("content")
    if content is None and extra.get("tool_calls"):
        content = ""
    return Message(role, _text(content, index), extra)


def _text(content: object, index: int) -> str:
    if isinstance(content, str):
        return content
    where = f"messages[{index}]['content']"
    if not isinstance(content, list):
        msg = f"{where}: expected str, got {type(content).__name__}"
        raise TemplateError(msg)
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, Mapping) else None
        if not isinstance(text, str) or part.get("type", "text") != "text":
            msg = f"{where}: expected parts {{'type': 'text', 'text': str}}, got {part!r:.80}"
            raise TemplateError(msg)
        texts.append(text)
    return "".join(texts)


def check_order(messages: Sequence[Message], *, any_order: bool) -> None:
    """Checks that the conversation is one that a model may answer now.

    Args:
        messages: Checked messages.
        any_order: Turns need not alternate; otherwise: an optional system message, then user and
            assistant in turn. In both cases the last message is not the assistant's.

    Raises:
        TemplateError: Names the first message out of place and the role expected there.
    """
    start = 1 if messages[0].role == "system" else 0
    for index, message in enumerate(messages[start:], start=start):
        if any_order:
            expected: tuple[str, ...] = ("system", "user", "assistant")
        else:
            expected = ("assistant" if (index - start) % 2 else "user",)
        if message.role not in expected:
            msg = (
                f"messages[{index}]['role']: expected {' or '.join(expected)}, got {message.role!r}"
            )
            raise TemplateError(msg)
    if messages[-1].role == "assistant" or len(messages) == start:
        last = len(messages) - 1
        msg = (
            f"messages[{last}]: the last message must be the user's, got one of role "
            f"{messages[last].role!r}"
        )
        raise TemplateError(msg)
