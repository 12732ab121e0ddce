"""How GPT4All's chat program of March 2023 cut text into tokens (gpt4all.cpp, utils.cpp)."""

from __future__ import annotations

from collections.abc import Sequence

from llama_rt.errors import TemplateError

__all__ = ["cut_longest"]


def cut_longest(text: str, tokens: Sequence[bytes]) -> list[int]:
    """Cuts the bytes of `text` into tokens so that the sum of their squared lengths is largest.

    There is no dummy prefix. Of equal sums at a position the one whose last token is longer stays;
    of tokens with one text the last id counts.

    Args:
        text: What to cut.
        tokens: Bytes of each id, b"" for tokens without text.

    Raises:
        TemplateError: Some bytes have no token.
    """
    ids = {token: id for id, token in enumerate(tokens) if token}
    longest = max(map(len, ids), default=0)
    data = text.encode()
    best, last = [0] * (len(data) + 1), [b""] * (len(data) + 1)
    for start in range(len(data)):
        for end in range(start + 1, min(start + longest, len(data)) + 1):
            token = data[start:end]
            score = best[start] + (end - start) ** 2
            if token in ids and best[end] < score:
                best[end], last[end] = score, token
    cut: list[int] = []
    at = len(data)
    while at:
        if not last[at]:
            msg = f"template gpt4all-chat: no token ends at byte {at} of {text[:40]!r}"
            raise TemplateError(msg)
        cut.append(ids[last[at]])
        at -= len(last[at])
    return cut[::-1]
