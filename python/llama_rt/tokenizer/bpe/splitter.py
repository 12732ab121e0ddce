"""Text to words by patterns, each applied to what the ones before it left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_rt.errors import TokenizerError
from llama_rt.tokenizer.bpe.pre_tokenizers import LINEAR_PATTERNS, ONE_PATTERN, spelled

__all__ = ["Splitter"]

# A pattern of a file may backtrack without end. The patterns in use take under a microsecond a
# character; a text is given 200 of them, and a second. Those that are known to end are not timed:
# that would take three times as long.
_SECONDS, _SECONDS_PER_CHARACTER = 1.0, 2e-4


class Splitter:
    """Cuts a text into words; nothing is lost, and no word is empty."""

    def __init__(self, patterns: Sequence[str], name: str) -> None:
        """Compiles the patterns.

        Args:
            patterns: In the syntax of the package `regex`; `^` and `$` are ends of lines.
            name: File, for errors.

        Raises:
            TokenizerError: A pattern is malformed; names `name`.
        """
        self._name = name
        one = ONE_PATTERN.get(tuple(patterns))
        patterns = patterns if one is None else [one]
        self._patterns = [_compiled(pattern, name) for pattern in patterns]
        pairs = zip(patterns, self._patterns, strict=True)
        self._linear = {done for pattern, done in pairs if spelled(pattern) in LINEAR_PATTERNS}

    def split(self, text: str) -> list[str]:
        """Returns the words of a text.

        Raises:
            TokenizerError: A pattern takes far too long for a text of this length.
        """
        seconds = _SECONDS + _SECONDS_PER_CHARACTER * len(text)
        words = [text] if text else []
        for pattern in self._patterns:
            try:
                limit = None if pattern in self._linear else seconds
                words = _applied(pattern, words, limit)
            except TimeoutError:
                msg = (
                    f"{self._name}: pre-tokenizer: {pattern.pattern[:80]!r} takes more than "
                    f"{seconds:.0f} s for {len(text)} characters"
                )
                raise TokenizerError(msg) from None
        return words


def _compiled(pattern: str, name: str) -> Any:  # noqa: ANN401 - regex has no types
    import regex  # loaded late: `import llama_rt` stays quick

    try:
        # Without full case folding (-f), which would let one character match two, as in the
        # libraries that these patterns were written for.
        return regex.compile(f"(?-f:{pattern})", regex.VERSION1 | regex.MULTILINE)
    except (regex.error, RecursionError, OverflowError) as error:
        msg = f"{name}: pre-tokenizer: {pattern[:80]!r} is malformed: {error}"
        raise TokenizerError(msg) from None


def _applied(pattern: Any, words: list[str], seconds: float | None) -> list[str]:  # noqa: ANN401
    done: list[str] = []
    for word in words:
        if not pattern.groups:
            found = pattern.findall(word, timeout=seconds)
            # The usual case: the matches are all there is.
            if len("".join(found)) == len(word) and (len(found) < 2 or "" not in found):
                done += found
                continue
        at = 0
        for match in pattern.finditer(word, timeout=seconds):
            start, end = match.span()
            done += [part for part in (word[at:start], word[start:end]) if part]
            at = end
        if at < len(word):
            done.append(word[at:])
    return done
