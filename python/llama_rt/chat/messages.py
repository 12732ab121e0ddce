"""Conversations as callers give them, checked; no template and no tokenizer here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llama_rt.errors import TemplateError

__all__ = ["Message", "as_text", "check_messages", "check_order", "check_structure"]

# What named formats have places for; a checkpoint's own template may know any role.
_ROLES = ("system", "developer", "user", "assistant", "tool", "ipython", "function")
_MEDIA = ("image", "audio", "video")


@dataclass(frozen=True, slots=True)
class Message:
    """One checked message of a named format.

    Attributes:
        role: One of the roles a conversation knows.
        content: Its text ("" for a call of tools without text).
        extra: The other keys, as given (`input`, `tool_calls`, ...).
    """

    role: str
    content: str
    extra: Mapping[str, object]


def check_structure(messages: object) -> list[Mapping[str, object]]:
    """Checks what every template relies on, and changes nothing.

    Args:
        messages: A sequence of mappings with a `role`. What else they hold, and as what, is between
            the caller and the template.

    Raises:
        TemplateError: Something else came, or a part of a content is no text but an image, sound
            or film; names the index and what is expected.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        found = type(messages).__name__
        msg = f"messages: expected a list of {{'role': ..., 'content': ...}}, got {found}"
        raise TemplateError(msg)
    if not messages:
        msg = "messages: expected at least one message, got none"
        raise TemplateError(msg)
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, Mapping):
            found = type(message).__name__
            msg = f"{where}: expected {{'role': ..., 'content': ...}}, got {found}"
            raise TemplateError(msg)
        role = message.get("role")
        if not isinstance(role, str) or not role:
            msg = f"{where}['role']: expected the name of a role, got {role!r}"
            raise TemplateError(msg)
        if not message.keys() - {"role"}:
            msg = f"{where}['content']: expected text or parts of text, got none"
            raise TemplateError(msg)
        _check_parts(message.get("content"), f"{where}['content']")
    return list(messages)


def _check_parts(content: object, where: str) -> None:
    for at, part in enumerate(content if isinstance(content, (list, tuple)) else ()):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(kind, str) and any(medium in kind for medium in _MEDIA):
            msg = (
                f"{where}[{at}]: expected parts {{'type': 'text', 'text': str}} (no model of this "
                f"runtime reads anything else), got type {kind!r}"
            )
            raise TemplateError(msg)


def as_text(content: object) -> object:
    """Returns the text of a content: parts joined, null as no text, others as they are."""
    if content is None:
        return ""
    if not isinstance(content, (list, tuple)):
        return content
    texts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
    return "".join(text for text in texts if isinstance(text, str))


def check_messages(messages: object) -> list[Message]:
    """Checks types and roles for a named format, which has places for texts only.

    Args:
        messages: A sequence of mappings with `role` and `content`; `content` is a str or a list of
            `{"type": "text", "text": str}`.

    Raises:
        TemplateError: Something else came; names the index and what is expected.
    """
    checked = check_structure(messages)
    return [_check_message(message, index) for index, message in enumerate(checked)]


def _check_message(message: Mapping[str, object], index: int) -> Message:
    role = message.get("role")
    if role not in _ROLES:
        msg = f"messages[{index}]['role']: expected one of {', '.join(_ROLES)}, got {role!r}"
        raise TemplateError(msg)
    extra = {str(key): value for key, value in message.items() if key not in ("role", "content")}
    content = message.get("content")
    if content is None and extra.get("tool_calls"):
        content = ""
    return Message(str(role), _text(content, index), extra)


def _text(content: object, index: int) -> str:
    if isinstance(content, str):
        return content
    where = f"messages[{index}]['content']"
    if not isinstance(content, (list, tuple)):
        msg = f"{where}: expected str, got {type(content).__name__}"
        raise TemplateError(msg)
    for part in content:
        text = part.get("text") if isinstance(part, Mapping) else part
        if not isinstance(text, str):
            msg = f"{where}: expected parts {{'type': 'text', 'text': str}}, got {part!r:.80}"
            raise TemplateError(msg)
    return str(as_text(content))


def check_order(
    messages: Sequence[Message], *, any_order: bool, last: tuple[str, ...] = ("user", "system")
) -> None:
    """Checks that the conversation is one that a format has a place for.

    Args:
        messages: Checked messages.
        any_order: Turns need not alternate; otherwise: an optional system message, then user and
            assistant in turn.
        last: Roles that the last message may have; () for any.

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
    if len(messages) == start or (last and messages[-1].role not in last):
        who = "the user's" if "user" in last else "the assistant's, which is to be continued"
        msg = (
            f"messages[{len(messages) - 1}]: the last message must be {who}, got one of role "
            f"{messages[-1].role!r}"
        )
        raise TemplateError(msg)
