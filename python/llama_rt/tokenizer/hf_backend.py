"""The `tokenizers` library of the extra `hf`: imported late, its failures typed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from llama_rt.errors import MissingExtraError, TokenizerError

__all__ = ["LLAMA3_PATTERN", "build_backend", "guarded", "import_tokenizers"]

# Split pattern of Llama 3 (meta-llama/llama3, llama/tokenizer.py).
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_T = TypeVar("_T")


def import_tokenizers(name: str) -> Any:  # noqa: ANN401
    """Imports the library that the `hf` extra brings.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import tokenizers
    except ImportError as error:
        msg = f"{name}: this tokenizer needs the tokenizers package: pip install 'llama-rt[hf]'"
        raise MissingExtraError(msg) from error
    return tokenizers


def guarded(build: Callable[[], _T], name: str) -> _T:
    """Runs a call into the library; whatever it makes of a bad file is a `TokenizerError`."""
    try:
        return build()
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a panic of the Rust library is no Exception
        msg = f"{name}: the tokenizers library refuses the file: {error}"
        raise TokenizerError(msg) from error


def build_backend(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], name: str) -> Any:  # noqa: ANN401
    """Makes Llama 3's encoder: split by pattern, whole words first, then merges by rank.

    Args:
        vocab: Ids of ordinary tokens, in GPT-2's byte alphabet.
        merges: Pairs by rank.
        name: File, for errors.
    """
    library = import_tokenizers(name)
    from tokenizers import models, pre_tokenizers

    def build() -> Any:  # noqa: ANN401
        model = models.BPE(vocab=dict(vocab), merges=list(merges), ignore_merges=True)
        backend = library.Tokenizer(model)
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(library.Regex(LLAMA3_PATTERN), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        return backend

    return guarded(build, name)
