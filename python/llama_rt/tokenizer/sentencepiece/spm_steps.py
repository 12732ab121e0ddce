"""The steps of a `tokenizer.json` around its merges, held against what sentencepiece does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_rt.errors import TokenizerError
from llama_rt.tokenizer.settings import PrefixSpace

__all__ = ["SpaceRules", "check_decoder", "space_rules", "without_prefix"]

_SPACE = "▁"
_PREPEND = {"type": "Prepend", "prepend": _SPACE}
_MARK = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
_UNMARK = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
_SEQUENCES = ("normalizers", "pretokenizers", "decoders")


@dataclass(frozen=True, slots=True)
class SpaceRules:
    """What the steps before the merges do to spaces.

    Attributes:
        prefix: Which text gets a leading space.
        adds_second: Also a text that begins with one.
        marks: There is a step that writes `▁` for every space.
        only_these: The steps do what sentencepiece does, no more and no less: both of these.
    """

    prefix: PrefixSpace
    adds_second: bool
    marks: bool
    only_these: bool


def space_rules(document: Mapping[str, Any]) -> SpaceRules:
    """Reads what the steps before the merges do to spaces."""
    prefix: PrefixSpace = "never"
    adds_second = same = True
    marks = False
    for step in _steps(document, "normalizer", "pre_tokenizer"):
        if step == _PREPEND:
            same = same and prefix == "never"
            prefix, adds_second = "always", True
        elif step == _MARK:
            marks = True
        elif _kind(step) == "Metaspace":
            scheme = "never" if step.get("add_prefix_space") is False else "always"
            scheme = step.get("prepend_scheme", scheme)
            if prefix == "never" and scheme in ("first", "always"):
                prefix, adds_second = scheme, False
            marks = True
            same = same and step.get("replacement") == _SPACE and step.get("split") is False
        else:
            same = False
    return SpaceRules(prefix, adds_second, marks, same and marks)


def without_prefix(document: dict[str, Any]) -> dict[str, Any]:
    """The same file with steps that add no leading space."""

    def bare(step: Any) -> Any:  # noqa: ANN401 - any JSON value
        if not isinstance(step, dict):
            return step
        if _kind(step) == "Metaspace":
            return {**step, "prepend_scheme": "never", "add_prefix_space": False}
        lists = {key: step[key] for key in _SEQUENCES if isinstance(step.get(key), list)}
        kept = {key: [bare(x) for x in steps if x != _PREPEND] for key, steps in lists.items()}
        return {**step, **kept}

    keys = ("normalizer", "pre_tokenizer")
    steps = {key: bare(document.get(key)) for key in keys}
    return {**document, **{key: None if step == _PREPEND else step for key, step in steps.items()}}


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
