"""Added tokens, special tokens and end ids by the JSON files of a checkpoint folder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from llama_rt.errors import TokenizerError
from llama_rt.tokenizer.special import AddedToken, is_control_text
from llama_rt.tokenizer_files import json_object

__all__ = ["added_tokens", "end_ids", "named_texts", "vocab_rows"]

_FLAGS = ("lstrip", "rstrip", "single_word", "normalized")


def added_tokens(
    folder: Path, document: Mapping[str, object] | None = None
) -> dict[int, AddedToken]:
    """Collects added tokens by id from a folder's JSON files.

    These are `added_tokens.json`, then `tokenizer.json` and `tokenizer_config.json`, which also
    say whether a token is special, what it strips and where it stands. A token with the text of a
    control token is special whatever they say. `document` stands for `tokenizer.json` if given.

    Raises:
        TokenizerError: A file is not what it should be, or an id is absurd.
    """
    found: dict[int, AddedToken] = {}
    specials = _special_texts(folder)
    plain, full = folder / "added_tokens.json", folder / "tokenizer.json"
    for text, id in json_object(plain).items():
        found[_row(id, plain)] = AddedToken(text, text in specials or is_control_text(text))
    listed = json_object(full) if document is None else document
    config = folder / "tokenizer_config.json"
    table = json_object(config).get("added_tokens_decoder")
    entries = [(full, item.get("id"), item) for item in _dicts(listed.get("added_tokens"))]
    if isinstance(table, dict):
        entries += [(config, id, item) for id, item in table.items() if isinstance(item, dict)]
    for file, id, item in entries:
        content = item.get("content")
        if isinstance(content, str):
            special = bool(item.get("special")) or is_control_text(content)
            flags = {name: item.get(name) is True for name in _FLAGS}
            found[_row(id, file)] = AddedToken(content, special, **flags)
    return found


def named_texts(folder: Path, key: str) -> list[str]:
    """Lists the texts that the folder's JSON files give as a special token.

    Args:
        folder: The checkpoint.
        key: Name of the token, such as `unk_token`.
    """
    found = []
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        found += _texts(json_object(folder / name).get(key))
    return found


def _special_texts(folder: Path) -> set[str]:
    texts: set[str] = set()
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        for key, value in json_object(folder / name).items():
            if key.endswith("_token") or key == "additional_special_tokens":
                texts.update(_texts(value))
    return texts


def _texts(value: object) -> list[str]:
    """Texts of a special token, or of a list of them, each a text or an object with one."""
    items = value if isinstance(value, list) else [value]
    texts = [item.get("content") if isinstance(item, dict) else item for item in items]
    return [text for text in texts if isinstance(text, str)]


def _dicts(value: object) -> list[dict[str, object]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _row(id: object, file: Path) -> int:
    row = int(id) if isinstance(id, str) and re.fullmatch("[0-9]{1,9}", id) else id
    if isinstance(row, int) and 0 <= row < 1 << 24:
        return row
    msg = f"{file}: added token id {id!r} is not in [0, {1 << 24})"
    raise TokenizerError(msg)


def end_ids(folder: Path, metadata: Mapping[str, object] | None) -> list[int]:
    """Lists the ids that `generation_config.json` and `metadata` call end of text."""
    ids: list[int] = []
    for source in (json_object(folder / "generation_config.json"), metadata or {}):
        value = source.get("eos_token_id")
        many: Iterable[object] = value if isinstance(value, list) else [value]
        ids += [id for id in many if isinstance(id, int) and not isinstance(id, bool)]
    return ids


def vocab_rows(metadata: Mapping[str, object] | None) -> int:
    """Returns `vocab_size` of `config.json` or `params.json`, 0 if it is not given (or -1)."""
    rows = (metadata or {}).get("vocab_size")
    return rows if isinstance(rows, int) and 0 < rows <= 1 << 24 else 0
