"""Which texts of a conversation may become tokens: the origins that its values get."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from llama_rt.chat.jinja.sandbox import ContentParts
from llama_rt.chat.jinja.taint import FINAL, Origin, TaintedText
from llama_rt.errors import TemplateError

__all__ = ["of_messages", "of_variables", "split_tokens", "through_final"]

# A role or a variable that is one word, such as `user` or `high`, may complete the text of a token
# that the template writes around it (`<|user|>`): it cannot hold one itself.
_WORD = re.compile(r"\w[\w.-]*")
_NO_TOKEN = "\uffff"  # a character that no text has (Unicode says so); no token's text either
_REASONING = ("reasoning_content", "thinking", "reasoning")


def of_messages(messages: Sequence[Mapping[str, object]], *, final: bool) -> list[object]:
    """Returns the messages with the origin of each text.

    Args:
        messages: Checked messages.
        final: The last one is to be continued: its content is marked.
    """
    return [
        _message(message, f"messages[{index}]", final=final and index == len(messages) - 1)
        for index, message in enumerate(messages)
    ]


def of_variables(variables: Mapping[str, object]) -> dict[str, object]:
    """Returns a template's variables with the origin of each text."""
    return {
        name: str(value) if _is_word(value) else _value(value, Origin.USER, name)
        for name, value in variables.items()
    }


def _message(message: Mapping[str, object], where: str, *, final: bool) -> dict[object, object]:
    role = message["role"]
    origin = Origin.ASSISTANT if role == "assistant" else Origin.USER
    made: dict[object, object] = {}
    for key, value in _with_reasoning(message).items():
        at = origin | (FINAL if final and key == "content" else 0)
        name = key if _is_word(key) else _value(key, origin, where)
        word = key == "role" and _is_word(value)
        item = value if word else _value(value, at, f"{where}[{key!r}]")
        made[name] = ContentParts(item) if key == "content" and isinstance(item, list) else item
    return made


def _with_reasoning(message: Mapping[str, object]) -> Mapping[str, object]:
    """Gives an answer's reasoning under all names that templates have for it, as transformers."""
    given = (message[name] for name in _REASONING if message.get(name) is not None)
    reasoning = next(given, None)
    if reasoning is None:
        return message
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _is_word(value: object) -> bool:
    return isinstance(value, str) and _WORD.fullmatch(value) is not None


def _value(value: object, origin: int, where: str) -> object:
    """Returns a JSON value with the origin of its texts."""
    if isinstance(value, str):
        return TaintedText(value, origin)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {
            _value(key, origin, where): _value(item, origin, f"{where}[{key!r}]")
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_value(item, origin, f"{where}[{at}]") for at, item in enumerate(value)]
    msg = f"{where}: expected what JSON can say, got {type(value).__name__}"
    raise TemplateError(msg)


def split_tokens(
    text: TaintedText, tokens: Iterable[str], visible: frozenset[str]
) -> Iterator[tuple[str, bool]]:
    """Cuts a rendered prompt at the tokens in it.

    Args:
        text: The prompt.
        tokens: Texts of control and added tokens.
        visible: Those that appear in generated text, and that an answer may therefore hold.

    Yields:
        The parts in order, and whether each is a token.
    """
    longest = sorted((token for token in tokens if len(token) > 1), key=len, reverse=True)
    plain = "".join(text)
    if not longest:
        yield plain, False
        return
    by_template = _masked(plain, text.origins, Origin.TEMPLATE)
    by_model = _masked(plain, text.origins, Origin.ASSISTANT)
    any_token = re.compile("|".join(map(re.escape, longest)))
    start = at = 0
    while (found := any_token.search(by_model, at)) is not None:
        at = found.start()
        here = (
            token
            for token in longest
            if by_template.startswith(token, at)
            or (token in visible and by_model.startswith(token, at))
        )
        token = next(here, None)
        if token is None:
            at += 1
            continue
        if at > start:
            yield plain[start:at], False
        yield token, True
        start = at = at + len(token)
    if start < len(plain):
        yield plain[start:], False


def _masked(text: str, origins: bytes, least: Origin) -> str:
    """Hides what comes from somebody less trusted."""
    less = bytes(level | bit for level in range(least) for bit in (0, FINAL))
    hidden = re.compile(b"[" + re.escape(less) + b"]+")
    parts, at = [], 0
    for found in hidden.finditer(origins):
        parts += [text[at : found.start()], _NO_TOKEN * (found.end() - found.start())]
        at = found.end()
    return "".join([*parts, text[at:]])


def through_final(text: TaintedText) -> TaintedText | None:
    """Returns the prompt up to the end of the final message's content; None if it is not there."""
    end = max((text.origins.rfind(level | FINAL) for level in Origin), default=-1)
    return text[: end + 1] if end >= 0 else None
