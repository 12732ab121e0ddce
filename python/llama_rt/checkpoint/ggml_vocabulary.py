"""The vocabulary of files from before GGUF, as the keys that GGUF has for it.

Texts are stored as they are shown: a space for sentencepiece's mark, one raw byte for a byte piece,
nothing for control pieces. Files without a version have no scores: they are LLaMA's, which follow
from the ids.
"""

from __future__ import annotations

from collections.abc import Sequence

from llama_rt.tokenizer.sentencepiece.spm_model import PieceKind

__all__ = ["tokenizer_keys"]

_MARK = "\u2581"
_FIRST_BYTE, _FIRST_PIECE = 3, 259
_REPLACEMENT = "\ufffd".encode()
_SPACES_SCORE = -1e9
_NAMED = {0: "<unk>", 1: "<s>", 2: "</s>"}


def tokenizer_keys(
    pieces: Sequence[bytes], scores: Sequence[float] | None, rows: int
) -> dict[str, object]:
    """Keys of `tokenizer.ggml`, for `rows` rows.

    Args:
        pieces: texts by id, as stored.
        scores: by id; None gives LLaMA's.
        rows: of the embedding; rows without a piece are padding, as GPT4All's token 32000.
    """
    texts: list[str] = []
    kinds: list[int] = []
    has_bytes = _are_bytes(pieces[_FIRST_BYTE:_FIRST_PIECE])
    for id, stored in enumerate(pieces):
        text, kind = _piece(id, stored, has_bytes=has_bytes)
        texts.append(text)
        kinds.append(kind)
    values = list(scores) if scores is not None else [_score(i, t) for i, t in enumerate(texts)]
    for id in range(len(texts), rows):
        texts.append("<pad>" if id == len(pieces) else f"[PAD{id}]")
        kinds.append(int(PieceKind.CONTROL))
        values.append(0.0)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.scores": values,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def _are_bytes(pieces: Sequence[bytes]) -> bool:
    """Whether pieces are the 256 bytes in order.

    The converter of the first days, 10 to 13 March 2023, wrote U+FFFD for those beyond ASCII.
    """
    return len(pieces) == 256 and all(
        piece == bytes([value]) or (value >= 0x80 and piece == _REPLACEMENT)
        for value, piece in enumerate(pieces)
    )


def _piece(id: int, stored: bytes, *, has_bytes: bool) -> tuple[str, int]:
    if id in _NAMED:
        return _NAMED[id], int(PieceKind.CONTROL if id else PieceKind.UNKNOWN)
    if has_bytes and id < _FIRST_PIECE:
        return f"<0x{id - _FIRST_BYTE:02X}>", int(PieceKind.BYTE)
    return stored.decode("utf-8", "replace").replace(" ", _MARK), int(PieceKind.NORMAL)


def _score(id: int, text: str) -> float:
    """LLaMA's: minus the position after the byte pieces; pieces of marks only come last."""
    if id < _FIRST_PIECE:
        return 0.0
    return _SPACES_SCORE if text.strip(_MARK) == "" else float(_FIRST_PIECE - id)
