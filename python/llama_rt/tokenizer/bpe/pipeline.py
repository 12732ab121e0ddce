"""The steps of a byte-level `tokenizer.json` before its merges, as patterns applied in turn."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_rt.tokenizer.bpe.pre_tokenizers import GPT2, PreTokenizer

__all__ = ["Pipeline", "UnsupportedStepError", "read_pipeline"]

_FORMS = ("NFC", "NFD", "NFKC", "NFKD")
_PUNCTUATION = r"[\p{P}!-/:-@\[-`{-~]"
# What Oniguruma, the matcher of `tokenizers`, understands in another way than `regex` does.
_OTHER_SYNTAX = re.compile(r"\\[hHRXKGOyYg]|\(\?[~#@<]?[~@]|\\p\{\^|\[\[:|\(\?[a-z]*[xm]")


class UnsupportedStepError(ValueError):
    """A step is more than a pattern; the message names it."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What happens to text before the merges.

    Attributes:
        normalization: Unicode form, or "".
        split: Words.
        prefix_space: Text that does not begin with a space gets one.
    """

    normalization: str
    split: PreTokenizer
    prefix_space: bool


def read_pipeline(document: Mapping[str, Any], file: Path) -> Pipeline:
    """Reads the steps of a parsed `tokenizer.json`.

    Raises:
        UnsupportedStepError: There is a step that no pattern stands for; names it and `file`.
    """
    model = document["model"]
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            msg = f"{file}: model.{key} {model[key]!r}"
            raise UnsupportedStepError(msg)
    forms = []
    for step in _steps(document.get("normalizer"), "normalizers"):
        if step.get("type") not in _FORMS:
            msg = f"{file}: normalizer {_shown(step)}"
            raise UnsupportedStepError(msg)
        forms.append(step["type"])
    if len(forms) > 1:
        msg = f"{file}: normalizers {' and '.join(forms)}"
        raise UnsupportedStepError(msg)
    patterns: list[str] = []
    prefix = False
    for index, step in enumerate(_steps(document.get("pre_tokenizer"), "pretokenizers")):
        if step.get("type") == "ByteLevel" and step.get("add_prefix_space", True):
            prefix = True
            if index:
                msg = f"{file}: pre-tokenizer {_shown(step)} after other steps"
                raise UnsupportedStepError(msg)
        patterns += _patterns(step, file)
    split = PreTokenizer(tuple(patterns), whole_words=model.get("ignore_merges") is True)
    return Pipeline("".join(forms), split, prefix)


def _steps(value: object, key: str) -> list[dict[str, Any]]:
    """The steps of a sequence, nested ones one by one; a single step; none of null."""
    if not isinstance(value, dict):
        return []
    inner = value.get(key)
    if isinstance(inner, list):
        return [step for item in inner for step in _steps(item, key)]
    return [value]


def _patterns(step: Mapping[str, Any], file: Path) -> list[str]:
    kind = step.get("type")
    if kind == "ByteLevel":
        return [GPT2] if step.get("use_regex", True) else []
    if kind == "Digits":
        return [r"\p{N}" if step.get("individual_digits") else r"\p{N}+"]
    if kind == "Punctuation" and step.get("behavior", "Isolated") in ("Isolated", "Contiguous"):
        return [_PUNCTUATION + ("+" if step.get("behavior") == "Contiguous" else "")]
    if kind == "Split":
        pattern = step.get("pattern")
        text = pattern.get("Regex") if isinstance(pattern, dict) else None
        if text is None and isinstance(pattern, dict) and isinstance(pattern.get("String"), str):
            text = re.escape(pattern["String"])
        # A split that keeps only matches and one that keeps the rest, too, differ where text is
        # lost: that is left to the library.
        isolated = step.get("behavior") == "Isolated"
        if isinstance(text, str) and isolated and not _OTHER_SYNTAX.search(text):
            return [text]
    msg = f"{file}: pre-tokenizer {_shown(step)}"
    raise UnsupportedStepError(msg)


def _shown(step: Mapping[str, Any]) -> str:
    others = {key: value for key, value in step.items() if key != "type"}
    return f"{step.get('type')} {others!r:.100}" if others else str(step.get("type"))
