"""Cache sequences of finished requests, kept for prompts that begin the same way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llama_rt import _native
from llama_rt.errors import CapacityError

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["ActiveAdapters", "CachedSequence", "PrefixCache", "common_length", "pages_for"]

ActiveAdapters = tuple[tuple["_native.Adapter", float], ...]
"""Adapters and their weights, in order of loading: what else but tokens decides keys and values."""

# Sharing fewer tokens (a begin-of-text id, say) is no sign that a sequence will be needed again.
_MIN_USE = 16


@dataclass(slots=True, eq=False)
class CachedSequence:
    """A sequence, the tokens in its cache, and what besides tokens decides their keys and values.

    Attributes:
        sequence: The runner's name for it.
        tokens: Tokens in its cache.
        key: Adapters in use, and the caller's salt: sequences of another key are never shared.
        hashes: Chained hashes of its whole blocks of a page, the key's own first.
    """

    sequence: int
    tokens: list[int]
    key: Hashable = ()
    hashes: list[int] = field(default_factory=list)


class PrefixCache:
    """Sequences by the hashes of their blocks, the least recently used first.

    All of them may be evicted at any time, page by page from the end. What is reused are the very
    keys and values that the same tokens gave before; in a model loaded as reproducible a result has
    the same bits with and without reuse. Hashes only find candidates: tokens are compared before
    anything is shared. Only the engine's thread calls this.
    """

    def __init__(self, runner: _native.Runner) -> None:
        """Keeps sequences of `runner`; the scheduler says how many pages they may take."""
        self._runner = runner
        self._kept: dict[CachedSequence, None] = {}  # in order of use
        self._by_block: defaultdict[int, dict[CachedSequence, None]] = defaultdict(dict)

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self._kept)

    def take(
        self, ids: Sequence[int], running: Iterable[CachedSequence] = (), key: Hashable = ()
    ) -> tuple[int, int]:
        """Makes a sequence for `ids` from the longest common beginning.

        Args:
            ids: Tokens that the sequence is for.
            running: Sequences of others that may be shared but not taken over.
            key: Adapters in use and salt; what was computed with others is of no use.

        Returns:
            The sequence and how many tokens it holds; always fewer than `len(ids)`, because the
            last token must be computed to know what follows it.
        """
        best, length = self._best(ids, running, key)
        if best is None:
            return self._runner.create(), 0
        try:
            forked = self._runner.fork(best.sequence, length)
        except CapacityError:  # there is no page to copy the last, partly filled one to
            if best not in self._kept:
                return self._runner.create(), 0
            self._forget(best)
            self._runner.truncate(best.sequence, length)
            return best.sequence, length
        if length >= min(_MIN_USE, len(best.tokens)):
            self._touch(best)
        return forked, length

    def reusable(
        self, ids: Sequence[int], running: Iterable[CachedSequence] = (), key: Hashable = ()
    ) -> int:
        """Number of tokens that `take` would find."""
        return self._best(ids, running, key)[1]

    def keep(self, sequence: int, tokens: list[int], key: Hashable = ()) -> None:
        """Takes over a finished sequence that holds `tokens`, computed under `key`."""
        new = CachedSequence(sequence, tokens, key, list(_block_hashes(tokens, key)))
        for block, value in enumerate(new.hashes):
            for old in list(self._by_block.get(value, ())):
                if old.key != key or len(old.hashes) - 1 > block:
                    continue  # compared at the last of its own blocks
                if len(old.tokens) <= len(tokens) and tokens[: len(old.tokens)] == old.tokens:
                    self._drop(old)
        longer = (other.tokens[: len(tokens)] for other in self._candidates(new.hashes, key))
        if not tokens or tokens in longer:
            self._runner.release(sequence)  # nothing new
            return
        self._kept[new] = None
        for value in new.hashes:
            self._by_block[value][new] = None

    def evict(self, pages: int) -> bool:
        """Gives about `pages` pages back, those last used longest ago; False if there are none.

        Pages that a running sequence shares stay where they are.
        """
        used = self._runner.cache_pages()[0]
        target = used - pages
        evicted = False
        while self._kept and used > target:
            self._shorten(next(iter(self._kept)), used - target)
            used = self._runner.cache_pages()[0]
            evicted = True
        return evicted

    def clear(self) -> None:
        """Gives everything back."""
        for kept in list(self._kept):
            self._drop(kept)

    def _best(
        self, ids: Sequence[int], running: Iterable[CachedSequence], key: Hashable
    ) -> tuple[CachedSequence | None, int]:
        best, length = None, 0
        wanted = list(ids)
        others = (other for other in running if other.key == key)
        for cached in (*self._candidates(list(_block_hashes(wanted, key)), key), *others):
            common = min(common_length(cached.tokens, wanted), len(wanted) - 1)
            if common > length:
                best, length = cached, common
        return best, length

    def _candidates(self, hashes: list[int], key: Hashable) -> Iterator[CachedSequence]:
        """Those that share the most whole blocks."""
        for value in reversed(hashes):
            found = [cached for cached in self._by_block.get(value, ()) if cached.key == key]
            if found:
                yield from reversed(found)
                return

    def _touch(self, cached: CachedSequence) -> None:
        if cached in self._kept:
            del self._kept[cached]
            self._kept[cached] = None

    def _shorten(self, cached: CachedSequence, pages: int) -> None:
        left = pages_for(len(cached.tokens)) - pages
        if left < 1:
            self._drop(cached)
            return
        length = left * _native.KV_PAGE_TOKENS
        self._runner.truncate(cached.sequence, length)
        cached.tokens = cached.tokens[:length]
        for value in cached.hashes[left + 1 :]:
            self._unregister(cached, value)
        del cached.hashes[left + 1 :]

    def _drop(self, cached: CachedSequence) -> None:
        self._forget(cached)
        self._runner.release(cached.sequence)

    def _forget(self, cached: CachedSequence) -> None:
        del self._kept[cached]
        for value in cached.hashes:
            self._unregister(cached, value)

    def _unregister(self, cached: CachedSequence, value: int) -> None:
        block = self._by_block[value]
        block.pop(cached, None)
        if not block:
            del self._by_block[value]


def pages_for(tokens: int) -> int:
    """Pages that hold so many tokens of one sequence."""
    return -(-tokens // _native.KV_PAGE_TOKENS)


def _block_hashes(tokens: Sequence[int], key: Hashable) -> Iterator[int]:
    """Hash of the key, then of each whole block with everything before it."""
    value = hash(key)
    yield value
    size = _native.KV_PAGE_TOKENS
    for start in range(0, len(tokens) - size + 1, size):
        value = hash((value, *tokens[start : start + size]))
        yield value


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
