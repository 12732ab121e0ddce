"""How well a model predicts a text: perplexity, by the two protocols that published figures use.

Chunks (llama.cpp): disjoint windows, the first token of each replaced by BOS, the second half of
each scored: `llama.cpp/tools/perplexity`. Strided (Hugging Face's guide; with a stride of the
whole window also that of GPTQ and AWQ): BOS once at the very start, windows moved by the stride,
every token scored once with what the window holds before it. Text after the last full window is
left out in both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llama_rt.api import Llama
from llama_rt.errors import CapacityError, ConfigError

__all__ = ["MIN_WINDOW", "Progress", "perplexity", "score", "wikitext_rows", "windows"]

MIN_WINDOW = 4  # tokens


@dataclass(frozen=True, slots=True)
class Progress:
    """The state after a window.

    Attributes:
        window: windows done.
        windows: windows in all.
        tokens: tokens scored so far.
        nll: sum of their negative log-probabilities, in nats.
        squares: sum of the squares of those.
    """

    window: int
    windows: int
    tokens: int
    nll: float
    squares: float

    @property
    def perplexity(self) -> float:
        """The exponential of the mean negative log-probability; infinite beyond a float's range."""
        try:
            return math.exp(self.nll / self.tokens)
        except OverflowError:
            return math.inf

    @property
    def error(self) -> float:
        """Standard error of `perplexity`, taking tokens as independent."""
        if self.tokens < 2:
            return math.inf
        mean = self.nll / self.tokens
        variance = max(0.0, self.squares / self.tokens - mean * mean)
        return self.perplexity * math.sqrt(variance / (self.tokens - 1))


def perplexity(
    llm: Llama, text: str, *, ctx: int = 512, stride: int | None = None
) -> Iterator[Progress]:
    """Scores a text window by window.

    Args:
        llm: the model.
        text: what to predict, tokenised as a whole by the model's own rule.
        ctx: tokens of a window.
        stride: tokens between windows; None scores by chunks, as llama.cpp does.

    Yields:
        The running result after each window; the last is the whole text's.

    Raises:
        ConfigError: `ctx` or `stride` make no windows, or the text is shorter than one.
        CapacityError: `ctx` is more than the model can do.
    """
    ids = np.asarray(llm.tokenizer.encode(text), dtype=np.int32)
    return score(llm, ids, ctx=ctx, stride=stride)


def score(
    llm: Llama, ids: npt.NDArray[np.int32], *, ctx: int = 512, stride: int | None = None
) -> Iterator[Progress]:
    """As `perplexity`, for ids int32 `[n]` with BOS first where the model has one."""
    if ctx > llm.n_ctx:
        msg = f"ctx: windows of {ctx} tokens are more than the context of {llm.n_ctx}"
        raise CapacityError(msg)
    plan = windows(len(ids), ctx=ctx, stride=stride)
    settings = llm.tokenizer.settings
    bos = settings.bos_id if stride is None and settings.add_bos else None
    return _run(llm, ids, plan, bos)


def _run(
    llm: Llama,
    ids: npt.NDArray[np.int32],
    plan: Sequence[tuple[int, int, int]],
    bos: int | None,
) -> Iterator[Progress]:
    tokens, nll, squares = 0, 0.0, 0.0
    for number, (begin, end, first) in enumerate(plan, 1):
        window = ids[begin:end].copy()
        if bos is not None:
            window[0] = bos
        # Entry j scores token j + 1; `first` is the first token of the window that counts.
        losses = -llm.score(window.tolist())[first - 1 :].astype(np.float64)
        tokens += len(losses)
        nll += float(losses.sum())
        squares += float(np.square(losses).sum())
        yield Progress(number, len(plan), tokens, nll, squares)


def windows(count: int, *, ctx: int, stride: int | None = None) -> list[tuple[int, int, int]]:
    """(begin, end, first scored token within the window) of each full window of `count` tokens.

    Raises:
        ConfigError: no window is possible.
    """
    if ctx < MIN_WINDOW:
        msg = f"ctx: expected windows of at least {MIN_WINDOW} tokens, got {ctx}"
        raise ConfigError(msg)
    if count < ctx:
        msg = f"the text has {count} tokens, less than one window of {ctx}; use a smaller context"
        raise ConfigError(msg)
    if stride is None:
        # llama.cpp: logits of positions ctx/2 to ctx-2 against the tokens that follow them.
        return [(b, b + ctx, ctx // 2 + 1) for b in range(0, count - ctx + 1, ctx)]
    if not 1 <= stride <= ctx:
        msg = f"stride: expected 1 to {ctx} (the window), got {stride}"
        raise ConfigError(msg)
    return [
        (b, b + ctx, max(1, ctx - stride) if b else 1) for b in range(0, count - ctx + 1, stride)
    ]


def wikitext_rows(text: str) -> str:
    """The text that figures with windows of 2048 were made from, given the file `wiki.test.raw`.

    Rows of the data set are lines with their own line break, blank ones the empty string, joined
    by two line breaks (GPTQ `datautils.py`).
    """
    lines = text.split("\n")
    rows = [f"{line}\n" if line.strip() else "" for line in lines]
    if not lines[-1]:
        rows.pop()
    return "\n\n".join(rows)
