"""Which template a conversation uses: the caller's choice, or the checkpoint's own. No guessing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from llama_rt.chat.jinja.jinja_template import JinjaTemplate
from llama_rt.chat.templates.from_checkpoint import (
    adds_bos,
    checkpoint_templates,
    read_template,
    token_texts,
)
from llama_rt.chat.templates.named import ALIASES, FORMATS
from llama_rt.chat.templates.named_template import NamedTemplate
from llama_rt.errors import TemplateError
from llama_rt.tokenizer import Tokenizer

__all__ = ["Template", "choose_template", "template_names"]


class Template(Protocol):
    """Makes a prompt of a conversation; bound to a tokenizer.

    Attributes:
        name: Name of the format, or `"checkpoint"`.
        origin: Whose format it is, or the file it came from.
        stop: Strings that end an answer, in addition to the tokenizer's stop ids.
        sampling: `SamplingParams` fields as the project's demo had them.
        max_tokens: Longest answer of the demo, or None.
        system: Default system text, "" for none.
    """

    name: str
    origin: str
    stop: tuple[str, ...]
    sampling: Mapping[str, float]
    max_tokens: int | None
    system: str

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        **variables: object,
    ) -> list[int]:
        """Returns the prompt's ids (begin-of-text included), ready to be continued."""
        ...

    def render_text(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        **variables: object,
    ) -> str:
        """Returns the prompt for display."""
        ...

    def reply(self, text: str, /) -> str:
        """Returns a generated answer as it goes into the history."""
        ...


def template_names() -> list[str]:
    """Lists the named formats."""
    return list(FORMATS)


def choose_template(
    name: str | Path | None,
    tokenizer: Tokenizer,
    metadata: Mapping[str, object] | None = None,
    path: str | Path | None = None,
) -> Template:
    """Returns the template asked for, or the checkpoint's own.

    Args:
        name: None for the checkpoint's own template; one of `template_names()`; the name of one of
            the checkpoint's templates; a file with a Jinja template; or Jinja source itself.
        tokenizer: The checkpoint's tokenizer.
        metadata: GGUF keys (`config.json` has no template).
        path: The checkpoint.

    Raises:
        TemplateError: There is no such template, or none was asked for and the checkpoint brings
            none; names the choices. Or a file cannot be read, or the source given is malformed.
    """
    own = checkpoint_templates(metadata, path)

    def jinja(source: str, name: str, origin: str) -> JinjaTemplate:
        tokens = token_texts(metadata, path, tokenizer)
        add_bos = adds_bos(metadata, path, tokenizer)
        return JinjaTemplate(
            source, tokenizer, name=name, origin=origin, tokens=tokens, add_bos=add_bos
        )

    if name is None:
        if "checkpoint" in own:
            source, origin = own["checkpoint"]
            return jinja(source, "checkpoint", origin)
        where = "this model" if path is None else str(path)
        msg = f"{where} brings no chat template, and none is guessed: choose one of {_choices(own)}"
        raise TemplateError(msg)
    text = str(name)
    if text in own:
        source, origin = own[text]
        return jinja(source, text, origin)
    key = text.lower().replace("_", "-")
    key = ALIASES.get(key, key)
    if key in FORMATS:
        return NamedTemplate(FORMATS[key], tokenizer)
    # Not `Path.expanduser`, which raises for an unknown user: there is nothing at such a path.
    file = os.path.expanduser(text)  # noqa: PTH111
    if "{%" in text or "{{" in text:
        given = jinja(text, "checkpoint", "chat_template")
    elif text and (read := read_template(Path(file))) is not None:
        given = jinja(read, text, file)
    else:
        msg = f"chat_template {text[:80]!r} is neither a file nor one of {_choices(own)}"
        raise TemplateError(msg)
    given.check()
    return given


def _choices(own: Mapping[str, object]) -> str:
    return ", ".join([*own, *FORMATS])
