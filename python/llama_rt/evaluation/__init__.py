"""How well a model predicts a text: perplexity."""

from llama_rt.evaluation.windows import (
    MIN_WINDOW,
    Progress,
    perplexity,
    score,
    wikitext_rows,
    windows,
)

__all__ = ["MIN_WINDOW", "Progress", "perplexity", "score", "wikitext_rows", "windows"]
