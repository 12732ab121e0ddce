"""Rendering a conversation in a named prompt format."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from llama_rt.chat.messages import Message, check_messages, check_order
from llama_rt.chat.templates.longest import cut_longest
from llama_rt.chat.templates.prompt_format import Format, Mark, Piece, Pieces, Token
from llama_rt.errors import TemplateError
from llama_rt.tokenizer import Tokenizer

__all__ = ["NamedTemplate"]

_ANSWERED = ("user", "system", "developer", "tool", "ipython", "function")  # roles
_SLOT = re.compile(r"\{(system|user|input|assistant)\}")


class NamedTemplate:
    """A format of `named.py`, bound to a tokenizer.

    Special tokens come from the format only: whatever a message says is plain text.

    Attributes:
        name: The format's name.
        origin: Whose format it is.
        stop: Strings that end an answer, in addition to the tokenizer's stop ids.
        sampling: `SamplingParams` fields as the project's demo had them.
        max_tokens: Longest answer of the demo, or None.
        system: Default system text, "" for none.
    """

    def __init__(self, format: Format, tokenizer: Tokenizer) -> None:
        """Binds the format.

        Raises:
            TemplateError: The tokenizer lacks a token that the format writes.
        """
        self._format = format
        self._tokenizer = tokenizer
        self.name = format.name
        self.origin = format.about
        self.stop = format.stop
        self.sampling: Mapping[str, float] = dict(format.sampling)
        self.max_tokens = format.max_tokens
        self.system = format.system
        written = [format.system_part or (), format.user, format.cue, format.assistant]
        known = tokenizer.special_ids
        for piece in (piece for pieces in written for piece in pieces):
            if isinstance(piece, Token) and piece.text not in known:
                msg = f"template {self.name}: this tokenizer has no token {piece.text}"
                raise TemplateError(msg)
        self._token_bytes = _token_bytes(tokenizer, self.name) if format.longest_match else []

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        **variables: object,
    ) -> list[int]:
        """Returns the prompt's ids, begin-of-text included.

        Args:
            messages: `{"role": "system" | "user" | "assistant", "content": str}`, the user's last;
                Alpaca's formats also take an `"input"` with a user's content.
            add_generation_prompt: End with what makes the model answer; None: unless
                `continue_final_message`.
            continue_final_message: The assistant's message is last, and the prompt ends within it.
            variables: None: a named format has no place for any.

        Raises:
            TemplateError: A message is malformed or out of place; names its index. Or a variable
                was given.
        """
        pieces = self._prompt(messages, add_generation_prompt, continue_final_message, variables)
        ids: list[int] = []
        for part in _chunks(pieces):
            if isinstance(part, str):
                ids += self._encode(part)
            else:
                ids += self._special(part)
        return ids

    def render_text(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        **variables: object,
    ) -> str:
        """Returns the prompt for display, special tokens by their names; arguments as `render`."""
        pieces = self._prompt(messages, add_generation_prompt, continue_final_message, variables)
        parts: list[str] = []
        for part in _chunks(pieces):
            special = [] if isinstance(part, str) else self._special(part)
            parts += [part] if isinstance(part, str) else map(self._tokenizer.piece, special)
        return "".join(parts)

    def reply(self, text: str) -> str:
        """Returns a generated answer as the project's demo put it into the history.

        Where answers are tokenised on their own, the space that their first token brings is
        dropped: encoding the answer gives it again.
        """
        format = self._format
        if (*format.user, *format.cue)[-1] is Mark.SPLIT and not format.longest_match:
            text = text.removeprefix(" ")
        return text.strip(format.strip_assistant)

    def _encode(self, text: str) -> list[int]:
        if self._format.longest_match:
            return cut_longest(text, self._token_bytes)
        return self._tokenizer.encode(text, bos=False)

    def _special(self, piece: Mark | Token) -> list[int]:
        if isinstance(piece, Token):
            return [self._tokenizer.special_ids[piece.text]]
        id = self._tokenizer.bos_id if piece is Mark.BOS else self._tokenizer.eos_id
        return [] if id is None or piece is Mark.SPLIT else [id]

    def _prompt(
        self,
        messages: Sequence[Mapping[str, object]],
        add_generation_prompt: bool | None,
        continue_final_message: bool,
        variables: Mapping[str, object],
    ) -> Iterator[Piece]:
        """Yields the pieces of a conversation up to where the model goes on."""
        given = [name for name, value in variables.items() if value not in (None, [], {}, ())]
        if given:
            msg = f"template {self.name} has no place for {', '.join(sorted(given))}"
            raise TemplateError(msg)
        if add_generation_prompt and continue_final_message:
            msg = "add_generation_prompt and continue_final_message exclude each other"
            raise TemplateError(msg)
        checked = check_messages(messages)
        if continue_final_message:
            self._check(checked, last=("assistant",))
            begun = checked.pop().content if len(checked) > 1 else ""
            return chain(self._pieces(checked), self._begun(begun))
        cue = add_generation_prompt is not False
        self._check(checked, last=() if not cue else _ANSWERED)
        return self._pieces(checked, cue=cue)

    def _begun(self, text: str) -> Iterator[Piece]:
        """Yields a known answer without what ends it."""
        for piece in self._format.assistant:
            if not isinstance(piece, str):
                yield piece
            elif "{assistant}" in piece:
                yield piece.partition("{assistant}")[0] + text
                return
            else:
                yield piece

    def _pieces(self, messages: list[Message], *, cue: bool = True) -> Iterator[Piece]:
        """Yields the filled pieces of a whole conversation."""
        format = self._format
        system, turns = self._split_system(messages)
        yield from format.begin
        if system and format.system_part and not format.any_order:
            yield from _fill(format.system_part, system=system)
        yield from format.opening
        for human, answer in [format.example] if format.example else []:
            yield from _fill((*format.user, *format.cue), user=human)
            yield from _fill(format.assistant, assistant=answer)
        for index, message in enumerate(turns):
            text = message.content
            if message.role == "assistant":
                yield from format.cue
                yield from _fill(format.assistant, assistant=text.strip(format.strip_assistant))
            elif message.role == "system":
                text = text.strip(format.strip_user)
                yield from _fill(format.system_part or (), system=text)
            elif index == 0 and system and format.fold_system:
                (folded,) = _fill((format.fold_system,), system=system, user=text)
                text = str(folded).strip(format.strip_user)
                yield from _fill(format.user, user=text)
            else:
                yield from self._user(message, first=index == 0 and not format.example)
        if cue:
            yield from format.cue

    def _split_system(self, messages: list[Message]) -> tuple[str, list[Message]]:
        """Separates the system text (the default one if none is given) from the turns."""
        if self._format.any_order:
            return "", messages
        if messages[0].role == "system":
            return messages[0].content, messages[1:]
        first_input = self._input(messages[0])[1]
        if first_input and self._format.system_with_input is not None:
            return self._format.system_with_input, messages
        return self._format.system, messages

    def _input(self, message: Message) -> tuple[str, str]:
        """Returns a user's instruction and input."""
        given = message.extra.get("input")
        if given is None and self._format.instruction:
            return self._format.instruction, message.content
        return message.content, str(given or "")

    def _user(self, message: Message, *, first: bool) -> Iterator[Piece]:
        format = self._format
        text, more = self._input(message)
        pieces = format.with_input if more and format.with_input else format.user
        if not first:
            later = format.next_with_input if more else format.next_user
            pieces = later or pieces
        strip = format.strip_user
        yield from _fill(pieces, user=text.strip(strip), input=more.strip(strip))

    def _check(self, messages: list[Message], last: tuple[str, ...]) -> None:
        """Refuses what this format has no place for."""
        format = self._format
        check_order(messages, any_order=format.any_order, last=last)
        takes_system = format.system_part or format.fold_system
        for index, message in enumerate(messages):
            where = f"messages[{index}]"
            if message.role == "system" and message.content and not takes_system:
                msg = f"{where}['role']: template {self.name} has no place for a system text"
                raise TemplateError(msg)
            extra = set(message.extra) - {"name"}
            if format.with_input and message.role == "user":
                extra.discard("input")
                if not isinstance(message.extra.get("input", ""), str):
                    msg = f"{where}['input']: expected str"
                    raise TemplateError(msg)
            if extra:
                msg = f"{where}: template {self.name} has no place for {', '.join(sorted(extra))}"
                raise TemplateError(msg)
            for tag in format.forbidden:
                if tag in message.content:
                    msg = f"{where}['content']: may not contain {tag} in template {self.name}"
                    raise TemplateError(msg)


def _fill(pieces: Pieces, **texts: str) -> Iterator[Piece]:
    for piece in pieces:
        if isinstance(piece, str):
            yield _SLOT.sub(lambda slot: texts[slot[1]], piece)
        else:
            yield piece


def _chunks(pieces: Iterator[Piece]) -> Iterator[str | Mark | Token]:
    """Joins neighbouring texts; what comes out as one str is tokenised as one."""
    text = ""
    for piece in pieces:
        if isinstance(piece, str):
            text += piece
            continue
        if text:
            yield text
        text = ""
        if piece is not Mark.SPLIT:
            yield piece
    if text:
        yield text


def _token_bytes(tokenizer: Tokenizer, name: str) -> list[bytes]:
    method = getattr(tokenizer, "token_bytes", None)
    if method is None:
        msg = f"template {name}: needs a sentencepiece vocabulary"
        raise TemplateError(msg)
    tokens: list[bytes] = method()
    return tokens
