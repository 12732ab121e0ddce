"""Cache sequences of finished requests, kept for prompts that begin the same way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama_rt.errors import CapacityError

if TYPE_CHECKING:
    from llama_rt import _native

__all__ = ["ActiveAdapters", "CachedSequence", "PrefixCache", "common_length"]

ActiveAdapters = tuple[tuple["_native.Adapter", float], ...]
"""Adapters and their weights, in order of loading: what else but tokens decides keys and values."""


@dataclass(frozen=True, slots=True, eq=False)
class CachedSequence:
    """A sequence, the tokens in its cache, and the adapters that computed it."""

    sequence: int
    tokens: list[int]
    adapters: ActiveAdapters = ()


class PrefixCache:
    """A few sequences, the least recently used first; all of them may be dropped at any time.

    What is reused are the very keys and values that the same tokens gave before; in a model loaded
    as reproducible a result has the same bits with and without reuse. Only the engine's thread
    calls this.
    """

    def __init__(self, runner: _native.Runner, *, max_sequences: int, max_tokens: int) -> None:
        """Keeps at most so many sequences and tokens in `runner`'s cache."""
        self._runner = runner
        self._max_sequences = max_sequences
        self._max_tokens = max_tokens
        self._kept: list[CachedSequence] = []

    @property
    def tokens(self) -> int:
        """Tokens held; pages shared between sequences count once for each."""
        return sum(len(kept.tokens) for kept in self._kept)

    def take(
        self,
        ids: Sequence[int],
        running: Iterable[CachedSequence] = (),
        adapters: ActiveAdapters = (),
    ) -> tuple[int, int]:
        """Makes a sequence for `ids` from the longest common beginning.

        Args:
            ids: Tokens that the sequence is for.
            running: Sequences of others that may be shared but not taken over.
            adapters: Adapters in use; what others computed is of no use.

        Returns:
            The sequence and how many tokens it holds; always fewer than `len(ids)`, because the
            last token must be computed to know what follows it.
        """
        best, length = self._best(ids, running, adapters)
        if best is None:
            return self._runner.create(), 0
        try:
            forked = self._runner.fork(best.sequence, length)
        except CapacityError:  # there is no page to copy the last, partly filled one to
            if best not in self._kept:
                return self._runner.create(), 0
            self._kept.remove(best)
            self._runner.truncate(best.sequence, length)
            return best.sequence, length
        if best in self._kept:
            self._kept.remove(best)
            self._kept.append(best)
        return forked, length

    def reusable(
        self,
        ids: Sequence[int],
        running: Iterable[CachedSequence] = (),
        adapters: ActiveAdapters = (),
    ) -> int:
        """Number of tokens that `take` would find."""
        return self._best(ids, running, adapters)[1]

    def _best(
        self, ids: Sequence[int], running: Iterable[CachedSequence], adapters: ActiveAdapters
    ) -> tuple[CachedSequence | None, int]:
        best, length = None, 0
        for cached in (*self._kept, *running):
            if cached.adapters != adapters:
                continue
            common = min(common_length(cached.tokens, ids), len(ids) - 1)
            if common > length:
                best, length = cached, common
        return best, length

    def keep(self, sequence: int, tokens: list[int], adapters: ActiveAdapters = ()) -> None:
        """Takes over a finished sequence that holds `tokens`, computed with `adapters`."""
        if not tokens or len(tokens) > self._max_tokens:
            self._runner.release(sequence)
            return
        for kept in [other for other in self._kept if other.adapters == adapters]:
            shared = common_length(kept.tokens, tokens)
            if shared == len(tokens):  # nothing new
                self._runner.release(sequence)
                return
            if shared == len(kept.tokens):
                self._drop(kept)
        self._kept.append(CachedSequence(sequence, tokens, adapters))
        while len(self._kept) > self._max_sequences or self.tokens > self._max_tokens:
            self.drop_oldest()

    def drop_oldest(self) -> bool:
        """Gives the least recently used sequence back; False if there is none."""
        if not self._kept:
            return False
        self._drop(self._kept[0])
        return True

    def clear(self) -> None:
        """Gives everything back."""
        while self.drop_oldest():
            pass

    def _drop(self, kept: CachedSequence) -> None:
        self._kept.remove(kept)
        self._runner.release(kept.sequence)


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Number of equal items at the beginning of both."""
    limit = min(len(a), len(b))
    if list(a[:limit]) == list(b[:limit]):
        return limit
    low, high = 0, limit  # equal up to low, different somewhere before high
    while high - low > 1:
        middle = (low + high) // 2
        if list(a[low:middle]) == list(b[low:middle]):
            low = middle
        else:
            high = middle
    return low
