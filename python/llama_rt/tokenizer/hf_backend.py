"""The `tokenizers` library of the extra `hf`: imported late, its failures typed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from llama_rt.errors import MissingExtraError, TokenizerError

__all__ = ["guarded", "import_tokenizers"]

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
