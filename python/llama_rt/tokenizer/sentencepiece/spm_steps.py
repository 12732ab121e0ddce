"""The steps of a `tokenizer.json` around its merges, held against what sentencepiece does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llama_rt.errors import TokenizerError

__all__ = ["check_decoder", "space_rules"]

_SPACE = "▁"
_PREPEND = {"type": "Prepend", "prepend": _SPACE}
_MARK = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
_UNMARK = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
_SEQUENCES = ("normalizers", "pretokenizers", "decoders")


def space_rules(document: Mapping[str, Any]) -> tuple[bool, bool]:
    """Reads what the steps before the merges do to spaces.

    Returns:
        Whether text gets a leading space, and whether the steps do what sentencepiece does, no
        more and no less: that space, and `▁` for every space.
    """
    prefix = marks = False
    same = True
    for step in _steps(document, "normalizer", "pre_tokenizer"):
        if step == _PREPEND:
            same = same and not prefix
            prefix = True
        elif step == _MARK:
            marks = True
        elif _kind(step) == "Metaspace":
            scheme = "never" if step.get("add_prefix_space") is False else "always"
            prefix = prefix or step.get("prepend_scheme", scheme) != "never"
            marks = True
            same = same and step.get("replacement") == _SPACE and step.get("split") is False
        else:
            same = False
    return prefix, same and marks


def check_decoder(document: Mapping[str, Any], file: Path) -> None:
    """Makes sure that ids become text as in sentencepiece: spaces for `▁`, bytes joined.

    Raises:
        TokenizerError: There is a step that does anything else; names it.
    """
    for step in _steps(document, "decoder"):
        kind = _kind(step)
        if kind == "Metaspace":
            fits = step.get("replacement") == _SPACE
        else:
            fits = step == _UNMARK or kind in ("ByteFallback", "Fuse", "Strip")
        if not fits:
            msg = f"{file}: decoder: step {step!r:.80} is not one of sentencepiece's"
            raise TokenizerError(msg)


def _steps(document: Mapping[str, Any], *keys: str) -> Iterator[Any]:
    """Goes through the steps under these keys in order, those of sequences one by one."""
    todo = [document.get(key) for key in reversed(keys)]
    while todo:
        step = todo.pop()
        inner = [step.get(key) for key in _SEQUENCES] if isinstance(step, dict) else []
        listed = next((steps for steps in inner if isinstance(steps, list)), None)
        if listed is not None:
            todo += reversed(listed)
        elif step is not None:
            yield step


def _kind(step: object) -> object:
    return step.get("type") if isinstance(step, dict) else None
