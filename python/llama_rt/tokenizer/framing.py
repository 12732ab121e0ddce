"""What a folder's files say of begin and end of a text, as transformers reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from llama_rt.tokenizer_files import json_object

__all__ = ["Frame", "folder_frame"]

Frame = tuple[tuple[int, ...], tuple[int, ...]]
"""Ids before and after a text."""

# Tokenizer classes of transformers that make their own frame from `add_bos_token` and
# `add_eos_token`, whatever the post-processor says.
_OWN_FRAME = ("LlamaTokenizer", "CodeLlamaTokenizer")


def folder_frame(
    folder: Path,
    document: Mapping[str, object] | None,
    bos_id: int | None,
    eos_id: int | None,
) -> Frame:
    """Ids that transformers puts around a text.

    With a `tokenizer.json` its post-processor decides. transformers' class for LLaMA also obeys
    `add_bos_token` and `add_eos_token` of `tokenizer_config.json`, and adds begin-of-text if
    neither says anything; so does a folder of `tokenizer.model` alone.

    Args:
        folder: The folder.
        document: Its `tokenizer.json`, None if there is none.
        bos_id: Begin-of-text.
        eos_id: End-of-text.

    Raises:
        TokenizerError: `tokenizer_config.json` is malformed.
    """
    config = json_object(folder / "tokenizer_config.json")
    template = _template((document or {}).get("post_processor"))
    name = str(config.get("tokenizer_class") or "").removesuffix("Fast")
    if document is not None and name not in _OWN_FRAME:
        return template or ((), ())
    before, after = template or ((bos_id,) if bos_id is not None else (), ())
    for key, id in (("add_bos_token", bos_id), ("add_eos_token", eos_id)):
        flag = config.get(key)
        if isinstance(flag, bool):
            ids = (id,) if flag and id is not None else ()
            before, after = (ids, after) if key == "add_bos_token" else (before, ids)
    return before, after


def _template(processor: object) -> Frame | None:
    """The frame of a post-processor; None if it adds nothing, or there is none."""
    found: Frame = ((), ())
    for step in _steps(processor):
        kind = step.get("type")
        if kind == "TemplateProcessing":
            found = _of_template(step)
        elif kind in ("RobertaProcessing", "BertProcessing"):
            found = (_pair_id(step.get("cls")), _pair_id(step.get("sep")))
    return found if any(found) else None


def _steps(processor: object) -> Iterator[Mapping[str, object]]:
    if isinstance(processor, dict):
        inner = processor.get("processors")
        if isinstance(inner, list):
            for step in inner:
                yield from _steps(step)
        else:
            yield processor


def _of_template(step: Mapping[str, object]) -> Frame:
    table = step.get("special_tokens")
    pieces = step.get("single")
    sides: tuple[list[int], list[int]] = ([], [])
    at = 0
    for piece in pieces if isinstance(pieces, list) else []:
        if not isinstance(piece, dict):
            continue
        if "Sequence" in piece:
            at = 1
        token = piece.get("SpecialToken")
        named = token.get("id") if isinstance(token, dict) else None
        entry = table.get(named) if isinstance(table, dict) else None
        ids = entry.get("ids") if isinstance(entry, dict) else None
        sides[at].extend(id for id in ids or [] if isinstance(id, int))
    return tuple(sides[0]), tuple(sides[1])


def _pair_id(value: object) -> tuple[int, ...]:
    """The id of `[text, id]`."""
    if isinstance(value, list) and len(value) == 2 and isinstance(value[1], int):
        return (value[1],)
    return ()
