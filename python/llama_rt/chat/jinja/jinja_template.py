"""Rendering a conversation with the Jinja template that a checkpoint carries."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from llama_rt.chat.messages import Message, check_messages
from llama_rt.errors import TemplateError
from llama_rt.tokenizer import Tokenizer

__all__ = ["JinjaTemplate"]

_PRIVATE = range(0xE000, 0xF900)  # characters without a meaning of their own


class JinjaTemplate:
    """A checkpoint's own template, bound to its tokenizer.

    Special tokens are read only from what the template writes. For that, texts of special tokens
    within messages are broken by a private character before rendering, which is taken out again
    when the parts between special tokens are tokenised. Those parts are tokenised whole, as
    transformers does, so that a template may do what it likes with a message.

    Attributes:
        name: `"checkpoint"`, or the name of one of its templates.
        origin: File or key that the template came from.
        stop: No strings: the tokenizer's stop ids end an answer.
        sampling: Empty; a template says nothing about sampling.
        max_tokens: None.
        system: "": the template has its own default.
    """

    def __init__(
        self,
        source: str,
        tokenizer: Tokenizer,
        *,
        name: str = "checkpoint",
        origin: str = "chat template",
        tokens: Mapping[str, str] | None = None,
        add_bos: bool = True,
    ) -> None:
        """Binds a template.

        Args:
            source: Jinja source.
            tokenizer: The checkpoint's tokenizer.
            name: Name to show.
            origin: File or key, for errors.
            tokens: Texts of special tokens by the names that templates have for them, such as
                `unk_token`. Those that begin and end a text are always the tokenizer's own: JSON
                files of 2023 name wrong ones.
            add_bos: Put the begin-of-text id first if the template does not write it.
        """
        self._source = source
        self._tokenizer = tokenizer
        own = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id}
        pieces = {key: "" if id is None else tokenizer.piece(id) for key, id in own.items()}
        self._tokens = {**(tokens or {}), **pieces}
        self._add_bos = add_bos
        self._specials = {text: id for text, id in tokenizer.special_ids.items() if len(text) > 1}
        longest = sorted(self._specials, key=len, reverse=True)
        self._any_special = "|".join(map(re.escape, longest))
        self.name = name
        self.origin = origin
        self.stop: tuple[str, ...] = ()
        self.sampling: Mapping[str, float] = {}
        self.max_tokens: int | None = None
        self.system = ""

    def render(self, messages: Sequence[Mapping[str, object]], **variables: object) -> list[int]:
        """Returns the prompt's ids, with one begin-of-text id, ready to be continued.

        Args:
            messages: `{"role": ..., "content": str}` and what else the template reads.
            variables: Further variables of the template (`tools`, `documents`, ...).

        Raises:
            TemplateError: A message is malformed, or the template fails or refuses it.
        """
        text, marker = self._render(messages, variables)
        ids: list[int] = []
        for index, part in enumerate(self._split(text)):
            if index % 2:
                ids.append(self._specials[part])
            elif part:
                ids += self._tokenizer.encode(part.replace(marker, ""), bos=False)
        return self._with_one_bos(ids)

    def render_text(self, messages: Sequence[Mapping[str, object]], **variables: object) -> str:
        """Returns the prompt for display, as the template wrote it."""
        text, marker = self._render(messages, variables)
        return text.replace(marker, "")

    def check(self) -> None:
        """Compiles the template; otherwise its first use does.

        Raises:
            TemplateError: It is malformed; names the line.
        """
        from llama_rt.chat.jinja.sandbox import check_sandboxed  # Jinja takes a while to import

        check_sandboxed(self._source, self.origin)

    def reply(self, text: str) -> str:
        """Returns a generated answer for the history: without white space around it."""
        return text.strip()

    def _render(
        self, messages: Sequence[Mapping[str, object]], variables: Mapping[str, object]
    ) -> tuple[str, str]:
        """Returns the rendered text and the character that breaks special texts in it."""
        from llama_rt.chat.jinja.sandbox import render_sandboxed  # Jinja takes a while to import

        given = [_as_mapping(message) for message in check_messages(messages)]
        fixed = [self._source, *self._tokens.values()]
        marker = _unused_character([*fixed, repr(given), repr(variables)])
        context: dict[str, Any] = {
            "tools": None,
            "documents": None,
            "add_generation_prompt": True,
            **self._tokens,
            **{key: self._broken(value, marker) for key, value in variables.items()},
            "messages": self._broken(given, marker),
        }
        return render_sandboxed(self._source, context, self.origin), marker

    def _broken(self, value: Any, marker: str) -> Any:  # noqa: ANN401 - any JSON value
        """Puts the marker after the first character of every special text within `value`."""
        if isinstance(value, str):
            if not self._any_special:
                return value
            starts = rf"(?=(?:{self._any_special}))(.)"
            return re.sub(starts, lambda found: found[1] + marker, value, flags=re.DOTALL)
        if isinstance(value, Mapping):
            return {
                self._broken(key, marker): self._broken(item, marker) for key, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self._broken(item, marker) for item in value]
        return value

    def _split(self, text: str) -> list[str]:
        """Cuts at special texts: ordinary text at even places, special texts at odd ones."""
        return re.split(f"({self._any_special})", text) if self._any_special else [text]

    def _with_one_bos(self, ids: list[int]) -> list[int]:
        bos = self._tokenizer.bos_id
        if bos is None:
            return ids
        start = next((at for at, id in enumerate(ids) if id != bos), len(ids))
        return [bos] * (start > 0 or self._add_bos) + ids[start:]


def _as_mapping(message: Message) -> dict[str, object]:
    return {"role": message.role, "content": message.content, **message.extra}


def _unused_character(texts: list[str]) -> str:
    for code in _PRIVATE:
        if not any(chr(code) in text for text in texts):
            return chr(code)
    msg = "messages: they use every private character (U+E000 to U+F8FF)"
    raise TemplateError(msg)
