"""Incremental detokenization of a request: text, stop strings, log-probabilities, chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llama_rt.engine.results import Chunk, FinishReason, TokenLogprob
from llama_rt.engine.stopping import StopMatcher

if TYPE_CHECKING:
    from llama_rt.tokenizer import Tokenizer

__all__ = ["IncrementalDetokenizer"]


class IncrementalDetokenizer:
    """The text and tokens of one request so far, and how much of them was returned in chunks.

    A token belongs to the result if its text begins before the result's end. It is handed out with
    the first chunk that reaches into its text, so chunks add up to the completion exactly.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        stop: Sequence[str],
        *,
        logprobs: bool,
    ) -> None:
        """Starts after `prompt`; `stop` are the strings that end the text."""
        self._tokenizer = tokenizer
        self._decoder = tokenizer.decoder(prompt)
        self._matcher = StopMatcher(stop)
        self._logprobs: list[TokenLogprob] | None = [] if logprobs else None
        self._tokens: list[int] = []
        self._starts: list[int] = []  # where each token's text begins, in characters
        self._decoded = 0  # characters decoded, stop strings included
        self._text: list[str] = []
        self._length = 0  # characters in _text
        self._given_text = 0  # entries of _text, then of _tokens, already in a chunk
        self._given_tokens = 0

    @property
    def stopped(self) -> bool:
        """A stop string was found; later tokens are ignored."""
        return self._matcher.found

    @property
    def stop_string(self) -> str:
        """The stop string that was found; empty if none was."""
        return self._matcher.string

    @property
    def text(self) -> str:
        """The certain text."""
        return "".join(self._text)

    @property
    def tokens(self) -> list[int]:
        """Ids of the text, after `finish`."""
        return self._tokens

    @property
    def logprobs(self) -> list[TokenLogprob] | None:
        """One entry per token, or None if not asked for."""
        return self._logprobs

    def push(
        self,
        tokens: Sequence[int],
        logprobs: Sequence[float],
        top_logprobs: Sequence[Sequence[tuple[int, float]]],
    ) -> None:
        """Takes the next tokens, up to the one that completes a stop string."""
        for index, token in enumerate(tokens):
            if self.stopped:
                return
            self._tokens.append(token)
            self._starts.append(self._decoded)
            if self._logprobs is not None:
                top = dict(top_logprobs[index])
                piece = self._tokenizer.piece(token)
                self._logprobs.append(TokenLogprob(token, piece, logprobs[index], top))
            decoded = self._decoder.push((token,))
            self._decoded += len(decoded)
            self._append(self._matcher.push(decoded))

    def finish(self) -> None:
        """Ends the text: releases what was held back, drops tokens after a stop string."""
        if not self.stopped:
            self._append(self._matcher.push(self._decoder.finish()))
        if not self.stopped:
            self._append(self._matcher.finish())
            return
        keep = len(self._tokens)
        while keep and self._starts[keep - 1] >= self._length:
            keep -= 1
        del self._tokens[keep:]
        if self._logprobs is not None:
            del self._logprobs[keep:]

    def take(self, finish_reason: FinishReason | None = None) -> Chunk | None:
        """Returns what is certain and not yet handed out; None if that is nothing."""
        first, last = self._given_tokens, len(self._tokens)
        if finish_reason is None:
            while last > first and self._starts[last - 1] >= self._length:
                last -= 1
        text = "".join(self._text[self._given_text :])
        if not text and finish_reason is None:
            return None
        self._given_text, self._given_tokens = len(self._text), last
        logprobs = None if self._logprobs is None else self._logprobs[first:last]
        return Chunk(text, self._tokens[first:last], logprobs, finish_reason)

    def _append(self, text: str) -> None:
        if text:
            self._text.append(text)
            self._length += len(text)
