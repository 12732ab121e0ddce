"""A sentencepiece `tokenizer.model` together with the JSON files of its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from llama_rt.errors import TokenizerError
from llama_rt.tokenizer.folder_tokens import added_tokens, vocab_rows
from llama_rt.tokenizer.sentencepiece.spm import SpmTokenizer, open_proto
from llama_rt.tokenizer.sentencepiece.spm_model import (
    PieceKind,
    SpmModel,
    SpmModelError,
    parse_model,
    with_control_pieces,
)
from llama_rt.tokenizer.sentencepiece.spm_rules import end_rows, folder_rules
from llama_rt.tokenizer.special import AddedToken, is_markup
from llama_rt.tokenizer_files import is_file, json_object, read_bytes

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
    found = added_tokens(path.parent)
    added = {id: token for id, token in found.items() if id >= pieces}
    marked = _marked_pieces(model)
    added |= {id: found.get(id, AddedToken(text, special=False)) for id, text in marked.items()}
    fast = path.parent / "tokenizer.json"
    document = json_object(fast) if is_file(fast) else None
    return SpmTokenizer(
        model,
        open_proto(with_control_pieces(data, marked) if marked else data, str(path)),
        name=str(path),
        rules=folder_rules(document, path.parent, model),
        added=added,
        listed=found,
        vocab_size=vocab_rows(metadata),
        stop_ids=end_rows(path.parent, metadata, model, added),
    )


def _marked_pieces(model: SpmModel) -> dict[int, str]:
    """User-defined pieces that look like control tokens; sentencepiece finds them in any text.

    They are tokens of a chat format, read only where special tokens are.
    """
    rows = enumerate(zip(model.texts, model.kinds, strict=True))
    return {
        id: text for id, (text, kind) in rows if kind == PieceKind.USER_DEFINED and is_markup(text)
    }
