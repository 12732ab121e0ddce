"""Making a vocabulary that came from another file format acceptable to sentencepiece."""

from __future__ import annotations

from collections.abc import Container

from llama_rt.errors import TokenizerError
from llama_rt.tokenizer.sentencepiece.spm_model import PieceKind, SpmModel

__all__ = ["encodable"]


def encodable(model: SpmModel, excluded: Container[int], name: str) -> SpmModel:
    """Returns the same rows as sentencepiece accepts them: unique texts, one unknown piece.

    Rows that plain text must not produce (`excluded`, and those without a text) become control
    pieces under a private name; of rows with one text the last counts, as in llama.cpp.

    Raises:
        TokenizerError: Some byte tokens are missing, or there is neither an unknown token nor any
            byte token.
    """
    texts, kinds = list(model.texts), list(model.kinds)
    last = {text: id for id, text in enumerate(texts) if id not in excluded}
    for id, text in enumerate(texts):
        extra_unknown = kinds[id] == PieceKind.UNKNOWN and id != model.unk_id
        if id in excluded or not text or last[text] != id or extra_unknown:
            texts[id], kinds[id] = f"\ue000{id}", PieceKind.CONTROL
    count = sum(kind == PieceKind.BYTE for kind in kinds)
    if count not in (0, 256):
        msg = f"{name}: the vocabulary has {count} byte tokens, expected 256 or none"
        raise TokenizerError(msg)
    unk_id = model.unk_id
    if unk_id < 0:
        if not count:
            msg = f"{name}: the vocabulary has no unknown token and no byte tokens"
            raise TokenizerError(msg)
        unk_id = len(texts)  # sentencepiece wants one; with byte tokens it is never used
        texts.append("\ue000unk")
        kinds.append(PieceKind.UNKNOWN)
    scores = model.scores + [0.0] * (len(texts) - len(model.scores))
    return SpmModel(
        texts=texts,
        scores=scores,
        kinds=kinds,
        unk_id=unk_id,
        bos_id=model.bos_id,
        eos_id=model.eos_id,
        byte_fallback=bool(count),
        add_dummy_prefix=model.add_dummy_prefix,
        remove_extra_whitespaces=model.remove_extra_whitespaces,
    )
