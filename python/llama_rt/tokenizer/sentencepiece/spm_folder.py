"""A sentencepiece `tokenizer.model` together with the JSON files of its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from llama_rt.errors import TokenizerError
from llama_rt.tokenizer.file_access import read_bytes
from llama_rt.tokenizer.folder_tokens import added_tokens, end_ids, vocab_rows
from llama_rt.tokenizer.sentencepiece.spm import SpmTokenizer, open_proto
from llama_rt.tokenizer.sentencepiece.spm_model import SpmModelError, parse_model

__all__ = ["spm_from_file"]


def spm_from_file(path: Path, metadata: Mapping[str, object] | None) -> SpmTokenizer:
    """Reads `tokenizer.model`.

    Begin and end ids come from the model file: the JSON files of 2023 name wrong ones. JSON adds
    tokens beyond the pieces, and end ids among those.

    Args:
        path: The sentencepiece model.
        metadata: `config.json` or `params.json`; its `vocab_size` is the embedding's rows.

    Raises:
        TokenizerError: A file cannot be read or contradicts itself; names it.
    """
    data = read_bytes(path)
    try:
        model = parse_model(data)
    except SpmModelError as error:
        msg = f"{path}: {error}"
        raise TokenizerError(msg) from None
    pieces = len(model.texts)
    added = {id: token for id, token in added_tokens(path.parent).items() if id >= pieces}
    rows = vocab_rows(metadata)
    return SpmTokenizer(
        model,
        open_proto(data, str(path)),
        name=str(path),
        added=added,
        vocab_size=rows,
        stop_ids=[id for id in end_ids(path.parent, metadata) if id in added],
    )
