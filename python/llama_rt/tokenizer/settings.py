"""A tokenizer's own settings, as data: read from its files once, and the same for every caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from llama_rt.tokenizer.special import AddedToken

__all__ = ["PrefixSpace", "TextRules", "TokenizerSettings"]

PrefixSpace = Literal["never", "first", "always"]
"""Which text gets a leading space: none, that at the start of a whole text (transformers' `legacy:
false`), or every part between special tokens (`legacy: true`, llama.cpp)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerSettings:
    """What a model's files say of its tokenizer, besides the vocabulary.

    Attributes:
        bos_id: Id that starts a text, or None.
        eos_id: Id that ends a text, or None.
        prefix_ids: Ids that the model's own rule puts before a text: mostly `bos_id` or nothing.
        suffix_ids: Ids that it puts after a text: mostly nothing or `eos_id`.
        prefix_space: Which text gets a leading space.
        adds_second_space: A text that already begins with a space gets another one, as
            sentencepiece does; `tokenizers` does not in its step `Metaspace`.
        added_tokens: Control and added tokens by id, with what they strip and where they stand.
        normalization: Unicode form of the text before it is encoded, such as `"NFC"`; "" for none.
        byte_fallback: Characters without a token become tokens of bytes.
        end_ids: Ids that end a generation.
        pre_tokenizer: Name of the split before the merges, as `tokenizer.ggml.pre` has it;
            `"default"` for sentencepiece, None if llama.cpp has no name for it.
        notes: What a reader had to assume or override, a sentence each.
    """

    bos_id: int | None = None
    eos_id: int | None = None
    prefix_ids: tuple[int, ...] = ()
    suffix_ids: tuple[int, ...] = ()
    prefix_space: PrefixSpace = "never"
    adds_second_space: bool = True
    added_tokens: Mapping[int, AddedToken] = field(default_factory=dict)
    normalization: str = ""
    byte_fallback: bool = False
    end_ids: frozenset[int] = frozenset()
    pre_tokenizer: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def add_bos(self) -> bool:
        """Whether a text begins with begin-of-text by the model's own rule."""
        return self.bos_id is not None and self.bos_id in self.prefix_ids

    @property
    def add_eos(self) -> bool:
        """Whether a text ends with end-of-text by the model's own rule."""
        return self.eos_id is not None and self.eos_id in self.suffix_ids

    def frame(self, ids: list[int], bos: bool | None, eos: bool | None) -> list[int]:
        """Adds begin and end ids where they are not there already.

        Args:
            ids: A text.
            bos: True is `bos_id`, False nothing, None the model's own rule.
            eos: The same for the end.
        """
        before = _chosen(bos, self.bos_id, self.prefix_ids)
        after = _chosen(eos, self.eos_id, self.suffix_ids)
        if before and tuple(ids[: len(before)]) != before:
            ids = [*before, *ids]
        if after and tuple(ids[-len(after) :]) != after:
            ids = [*ids, *after]
        return ids


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRules:
    """The part of the settings that files state in words of their own, without the vocabulary.

    Attributes:
        add_bos: A text begins with begin-of-text.
        add_eos: A text ends with end-of-text.
        frame: Ids before and after a text where the file lists them, instead of the two above.
        prefix_space: As in `TokenizerSettings`, like the rest.
    """

    add_bos: bool = True
    add_eos: bool = False
    frame: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    prefix_space: PrefixSpace = "never"
    adds_second_space: bool = True
    normalization: str = ""
    pre_tokenizer: str | None = None
    notes: tuple[str, ...] = ()

    def settings(
        self,
        *,
        bos_id: int | None,
        eos_id: int | None,
        added_tokens: Mapping[int, AddedToken],
        byte_fallback: bool,
        end_ids: frozenset[int],
    ) -> TokenizerSettings:
        """Joins the rules to what the vocabulary says."""
        before, after = self.frame or (
            (bos_id,) if self.add_bos and bos_id is not None else (),
            (eos_id,) if self.add_eos and eos_id is not None else (),
        )
        return TokenizerSettings(
            bos_id=bos_id,
            eos_id=eos_id,
            prefix_ids=before,
            suffix_ids=after,
            prefix_space=self.prefix_space,
            adds_second_space=self.adds_second_space,
            added_tokens=added_tokens,
            normalization=self.normalization,
            byte_fallback=byte_fallback,
            end_ids=end_ids,
            pre_tokenizer=self.pre_tokenizer,
            notes=self.notes,
        )


def _chosen(wanted: bool | None, id: int | None, rule: Sequence[int]) -> tuple[int, ...]:
    if wanted is None:
        return tuple(rule)
    return (id,) if wanted and id is not None else ()
