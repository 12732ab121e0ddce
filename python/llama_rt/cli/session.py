"""One conversation as it happens: reads lines, streams answers, keeps within the context."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

from llama_rt import Completion, Llama, SamplingParams
from llama_rt.cli.console import Console, plural
from llama_rt.cli.conversation import Conversation
from llama_rt.cli.options import utf8
from llama_rt.cli.summary import as_json, summary
from llama_rt.errors import CapacityError, TemplateError

__all__ = ["Session"]

# When turns are dropped, this share of them goes at once, so that the next answer fits too.
_SHARE = 4


class Session:
    """One person, one model, one conversation."""

    def __init__(
        self,
        llm: Llama,
        console: Console,
        params: Callable[[Mapping[str, float]], SamplingParams],
        *,
        system: str | None,
        max_tokens: int | None,
        stop: list[str],
        drop_oldest: bool,
        variables: Mapping[str, object],
    ) -> None:
        self.llm = llm
        self.console = console
        self.params = params
        self.max_tokens = max_tokens
        self.stop = stop
        self.drop_unasked = drop_oldest
        self.variables = variables
        self.template: str | None = None  # None: what the model was loaded with
        self.conversation = Conversation(system)
        self.turns: list[Completion] = []

    def _greet(self) -> None:
        """Names the model, to a person."""
        if self.console.interactive:
            with contextlib.suppress(ImportError):  # line editing; input() finds it by itself
                import readline  # noqa: F401
            name = self.llm.config.name or self.llm.path.name
            self.console.note(f"{name}, context {plural(self.llm.n_ctx, 'token')}. /help helps.")

    def run(self, command: Callable[[str], bool]) -> None:
        """Reads and answers until the end of the input.

        Args:
            command: runs a line that begins with a slash; False if the session is over.

        Raises:
            TemplateError: the model has no template and none was named.
        """
        self.llm.find_template(self.template)
        self._greet()
        while (line := self._read()) is not None:
            text = line.strip()
            if text.startswith("/"):
                if not command(text):
                    return
            elif text:
                self.say(text)

    def say(self, text: str) -> None:
        """One turn: asks, streams the answer, reports; a failed turn leaves no trace."""
        self.conversation.ask(text)
        try:
            done = self._answer_within_context()
        except (TemplateError, KeyboardInterrupt) as error:
            self.conversation.undo()
            if not self.console.interactive:
                raise
            self.console.finish_line()
            self.console.note(str(error) or "cancelled")
            return
        except BaseException:
            self.conversation.undo()
            raise
        if done is None:
            self.conversation.undo()
            return
        self.conversation.answer(self.llm.find_template(self.template).reply(done.text))
        self.turns.append(done)
        used = f"context {done.usage.total_tokens:,} of {self.llm.n_ctx:,}"
        self.console.note(f"{summary(done)} · {used}")
        if done.finish_reason == "length" and done.usage.total_tokens >= self.llm.n_ctx:
            self.console.note("the context is full: the answer stops here")

    def _answer_within_context(self) -> Completion | None:
        """The answer; turns are dropped, if the person agrees, until one fits."""
        while True:
            try:
                return self._answer()
            except CapacityError as error:
                if not self._drop_turns(error):
                    return None

    def _answer(self) -> Completion:
        template = self.llm.find_template(self.template)
        # Where the person gave no option, the project's demo decides how its answers are sampled.
        stream = self.llm.chat_stream(
            self.conversation.messages,
            template=self.template,
            chat_template_kwargs=self.variables,
            max_tokens=self.max_tokens,
            params=self.params(template.sampling),
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

    def _drop_turns(self, error: CapacityError) -> bool:
        """Drops the oldest turns if the person agrees; True if something was dropped."""
        alone = self.conversation.turns < 2
        what = "this message alone does not fit" if alone else "the conversation has outgrown"
        reason = f"{what} the context: {error}"
        if not self.console.interactive and (alone or not self.drop_unasked):
            advice = "" if alone else "; --drop-oldest forgets the oldest turns as needed"
            raise CapacityError(reason + advice) from error
        self.console.note(reason)
        if alone:
            return False
        if not self.drop_unasked and not self._agrees("drop the oldest turns? [Y/n] "):
            self.console.note("nothing dropped; /reset starts again, /undo takes a turn back")
            return False
        dropped = 0
        share = max(1, self.conversation.turns // _SHARE)
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
            line = utf8(line).rstrip("\n")
            if not line.endswith("\\"):
                return "\n".join([*lines, line])
            lines.append(line[:-1])

    def as_json(self) -> dict[str, object]:
        """The conversation and what each answer took."""
        return {
            "messages": self.conversation.messages,
            "completions": [as_json(done) for done in self.turns],
        }
