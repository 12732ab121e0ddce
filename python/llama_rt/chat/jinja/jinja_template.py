"""Rendering a conversation with the Jinja template that a checkpoint carries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from llama_rt.chat.messages import as_text, check_structure
from llama_rt.errors import TemplateError
from llama_rt.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llama_rt.chat.jinja.taint import TaintedText

__all__ = ["JinjaTemplate"]

_BEGUN = "\ue000"  # stands for the text of an answer that is begun but empty


class JinjaTemplate:
    """A checkpoint's own template, bound to its tokenizer.

    The template sees the messages as they are. Of the text that it makes, each character's origin
    is known (`taint.py`): texts of control tokens count as such only where the template wrote
    them, and those of tokens that appear in generated text also where an answer holds them. What is
    between tokens is tokenised whole, as transformers does.

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
        self._visible = frozenset(
            text for text, id in self._specials.items() if tokenizer.decode([id])
        )
        self.name = name
        self.origin = origin
        self.stop: tuple[str, ...] = ()
        self.sampling: Mapping[str, float] = {}
        self.max_tokens: int | None = None
        self.system = ""

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        **variables: object,
    ) -> list[int]:
        """Returns the prompt's ids, with one begin-of-text id.

        Args:
            messages: `{"role": ..., "content": ...}` and what else the template reads, as it is.
            add_generation_prompt: End with what makes the model answer; None: unless
                `continue_final_message`.
            continue_final_message: End within the last message, so that the model goes on with it.
            variables: Further variables of the template (`tools`, `documents`, ...).

        Raises:
            TemplateError: A message is malformed, or the template fails or refuses it.
        """
        from llama_rt.chat.jinja.origins import split_tokens

        text = self._prompt(messages, add_generation_prompt, continue_final_message, variables)
        parts = (
            self._specials[part] if is_token else part
            for part, is_token in split_tokens(text, self._specials, self._visible)
        )
        return self._with_one_bos(self._tokenizer.encode_parts(parts))

    def render_text(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        **variables: object,
    ) -> str:
        """Returns the prompt for display, as the template wrote it; arguments as in `render`."""
        text = self._prompt(messages, add_generation_prompt, continue_final_message, variables)
        return str.__str__(text)

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

    def _prompt(
        self,
        messages: Sequence[Mapping[str, object]],
        add_generation_prompt: bool | None,
        continue_final_message: bool,
        variables: Mapping[str, object],
    ) -> TaintedText:
        """Returns the rendered text, ending where it is to be continued."""
        from llama_rt.chat.jinja.origins import through_final

        given = check_structure(messages)
        if add_generation_prompt and continue_final_message:
            msg = "add_generation_prompt and continue_final_message exclude each other"
            raise TemplateError(msg)
        if not continue_final_message:
            return self._render(given, variables, cue=add_generation_prompt is not False)
        begun = as_text(given[-1].get("content"))
        if not isinstance(begun, str):
            msg = f"messages[{len(given) - 1}]['content']: expected text that can be continued"
            raise TemplateError(msg)
        if not begun:
            given[-1] = {**given[-1], "content": _BEGUN}
        text = through_final(self._render(given, variables, cue=False, final=True))
        if text is not None:
            return text if begun else text[:-1]
        if len(given) == 1:
            msg = f"{self.origin}: the template does not print the message that is to be continued"
            raise TemplateError(msg)
        # The template leaves this message out: then it follows what makes the model answer.
        return self._render(given[:-1], variables, cue=True) + begun

    def _render(
        self,
        messages: list[Mapping[str, object]],
        variables: Mapping[str, object],
        *,
        cue: bool,
        final: bool = False,
    ) -> TaintedText:
        """Renders the messages in the first form in which the template shows them.

        They reach the template as they are. Where it fails at a content that is a list or null, or
        makes a text of it, it gets its text; where it reads parts only, a text is given as one.
        """
        contents = [message.get("content") for message in messages]
        only_text = all(isinstance(content, str) for content in contents)
        first: TaintedText | None = None
        for form in _forms(messages, only_text=only_text):
            try:
                text = self._render_as(form, variables, cue=cue, final=final)
            except TemplateError as error:
                if only_text and first is None:
                    raise
                failure = error
                continue
            if _shows(text, messages):
                return text
            first = text if first is None else first
        if first is None:
            raise failure
        return first

    def _render_as(
        self,
        messages: list[Mapping[str, object]],
        variables: Mapping[str, object],
        *,
        cue: bool,
        final: bool,
    ) -> TaintedText:
        """Renders the messages in the form given."""
        # Jinja takes a while to import.
        from llama_rt.chat.jinja.origins import of_messages, of_variables
        from llama_rt.chat.jinja.sandbox import render_sandboxed

        context: dict[str, object] = {
            "tools": None,
            "documents": None,
            "add_generation_prompt": cue,
            **self._tokens,
            **of_variables(variables),
            "messages": of_messages(messages, final=final),
        }
        no_null = any(message.get("content", "") is None for message in messages)
        return render_sandboxed(self._source, context, self.origin, no_null=no_null)

    def _with_one_bos(self, ids: list[int]) -> list[int]:
        bos = self._tokenizer.bos_id
        if bos is None:
            return ids
        start = next((at for at, id in enumerate(ids) if id != bos), len(ids))
        return [bos] * (start > 0 or self._add_bos) + ids[start:]


def _forms(
    messages: list[Mapping[str, object]], *, only_text: bool
) -> Iterator[list[Mapping[str, object]]]:
    """Yields the messages in the forms that templates want, as they are first."""
    # Without nulls, as transformers gives them: few templates expect any.
    yield [{k: v for k, v in message.items() if v is not None} for message in messages]
    if any(value is None for message in messages for value in message.values()):
        yield messages
    yield [_with_content(message, _as_parts if only_text else as_text) for message in messages]


def _with_content(
    message: Mapping[str, object], change: Callable[[object], object]
) -> Mapping[str, object]:
    return {**message, "content": change(message["content"])} if "content" in message else message


def _as_parts(content: object) -> object:
    return [{"type": "text", "text": content}] if content else content


def _shows(text: TaintedText, messages: list[Mapping[str, object]]) -> bool:
    """Says whether the user's newest message and the tools that were called are in a prompt."""
    of_user = (message for message in reversed(messages) if message["role"] == "user")
    asked = next(of_user, {}).get("content")
    parts = asked if isinstance(asked, (list, tuple)) else [asked]
    texts = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
    for message in messages:
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, (list, tuple)) else ():
            function = call.get("function", call) if isinstance(call, Mapping) else None
            texts.append(function.get("name") if isinstance(function, Mapping) else None)
    return all(one.strip() in text for one in texts if isinstance(one, str))
