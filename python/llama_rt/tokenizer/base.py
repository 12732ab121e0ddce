"""What every tokenizer of llama_rt does in the same way, whatever encodes the text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from llama_rt.tokenizer.protocol import check_ids, check_text
from llama_rt.tokenizer.settings import TokenizerSettings
from llama_rt.tokenizer.special import SpecialTokens

__all__ = ["TokenizerBase"]


class TokenizerBase(ABC):
    """Special tokens around ordinary text, which a subclass encodes and decodes."""

    def __init__(
        self,
        settings: TokenizerSettings,
        special: SpecialTokens,
        *,
        vocab_size: int,
        unsampled_ids: frozenset[int],
    ) -> None:
        """Keeps the settings; see `Tokenizer` for what the rest means."""
        self.settings = settings
        self.vocab_size = vocab_size
        self.unsampled_ids = unsampled_ids
        self._special = special

    @property
    def bos_id(self) -> int | None:
        """Id that starts a text."""
        return self.settings.bos_id

    @property
    def eos_id(self) -> int | None:
        """Id that ends a text."""
        return self.settings.eos_id

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a generation."""
        return self.settings.end_ids

    @property
    def special_ids(self) -> dict[str, int]:
        """Control and added tokens by text."""
        return dict(self._special.ids)

    def encode(
        self,
        text: str,
        bos: bool | None = None,
        eos: bool | None = None,
        *,
        special: bool = False,
    ) -> list[int]:
        """See `Tokenizer.encode`."""
        parts = self._special.cut(check_text(text), special=special)
        return self.settings.frame(self._joined(parts), bos, eos)

    def encode_parts(
        self, parts: Iterable[str | int], bos: bool | None = False, eos: bool | None = False
    ) -> list[int]:
        """See `Tokenizer.encode_parts`."""
        cut: list[str | int] = []
        for part in self._special.strip_around(self._checked(parts)):
            cut += self._special.cut(part, special=False) if isinstance(part, str) else [part]
        return self.settings.frame(self._joined(cut), bos, eos)

    def _checked(self, parts: Iterable[str | int]) -> Iterable[str | int]:
        for part in parts:
            yield (
                check_text(part) if isinstance(part, str) else check_ids([part], self.vocab_size)[0]
            )

    def _joined(self, parts: list[str | int]) -> list[int]:
        if len(parts) == 1 and isinstance(parts[0], str):
            return self._encode_text(parts[0], first=True)
        ids: list[int] = []
        for index, part in enumerate(parts):
            ids += [part] if isinstance(part, int) else self._encode_text(part, first=index == 0)
        return ids

    @abstractmethod
    def _encode_text(self, text: str, *, first: bool) -> list[int]:
        """Encodes text without special tokens, never empty; `first`: nothing is before it."""
