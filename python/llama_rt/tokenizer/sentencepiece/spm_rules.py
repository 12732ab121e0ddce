"""Rules of a folder's sentencepiece vocabulary that stand in files beside it."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from llama_rt.tokenizer.folder_tokens import end_ids
from llama_rt.tokenizer.framing import folder_frame
from llama_rt.tokenizer.sentencepiece.spm_model import PieceKind, SpmModel
from llama_rt.tokenizer.sentencepiece.spm_steps import space_rules
from llama_rt.tokenizer.settings import PrefixSpace, TextRules
from llama_rt.tokenizer_files import json_object

__all__ = ["end_rows", "folder_rules"]


def folder_rules(document: dict[str, Any] | None, folder: Path, model: SpmModel) -> TextRules:
    """Begin and end of a text and its leading space.

    Steps of `tokenizer.json` come first; without it, `legacy` of `tokenizer_config.json` says
    whether every part between special tokens has its own space (true, or nothing said) or only the
    start of the text.

    Args:
        document: `tokenizer.json`, None if there is none.
        folder: The folder.
        model: Pieces and rules of the model.

    Raises:
        TokenizerError: A JSON file is malformed.
    """
    bos, eos = (
        id if 0 <= id < len(model.kinds) and model.kinds[id] == PieceKind.CONTROL else None
        for id in (model.bos_id, model.eos_id)
    )
    frame = folder_frame(folder, document, bos, eos)
    spaces = None if document is None else space_rules(document)
    if spaces is not None and spaces.marks:
        return TextRules(
            frame=frame,
            prefix_space=spaces.prefix,
            adds_second_space=spaces.adds_second,
            pre_tokenizer="default",
        )
    config = json_object(folder / "tokenizer_config.json")
    prefix: PrefixSpace = "first" if config.get("legacy") is False else "always"
    if not model.add_dummy_prefix or config.get("add_prefix_space") is False:
        prefix = "never"
    return TextRules(frame=frame, prefix_space=prefix, pre_tokenizer="default")


def end_rows(
    folder: Path,
    metadata: Mapping[str, object] | None,
    model: SpmModel,
    added: Container[int],
) -> list[int]:
    """Ids that end a generation by the folder's JSON files.

    Only added and control tokens count, and begin of text and the unknown token never: files of
    2023 name wrong ids.
    """
    control = {id for id, kind in enumerate(model.kinds) if kind == PieceKind.CONTROL}
    ids = end_ids(folder, metadata)
    return [id for id in ids if id in added or (id in control and id != model.bos_id)]
