"""Values of a GGUF file's `tokenizer.ggml.*` keys, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llama_rt.errors import TokenizerError
from llama_rt.tokenizer.protocol import check_text

__all__ = [
    "NORMALIZATION_KEY",
    "PREFIX_SPACE_KEY",
    "SECOND_SPACE_KEY",
    "TOKEN_FLAGS",
    "control_note",
    "gguf_flag",
    "gguf_id",
    "gguf_list",
    "gguf_number",
    "gguf_texts",
    "token_flags",
]

# Keys of our own, for settings that llama.cpp has no key for: `convert` writes them.
PREFIX_SPACE_KEY = "tokenizer.llama_rt.prefix_space"
SECOND_SPACE_KEY = "tokenizer.llama_rt.adds_second_space"
NORMALIZATION_KEY = "tokenizer.llama_rt.normalization"
# Ids of added tokens with a flag that llama.cpp has no key for, by the flag's name.
TOKEN_FLAGS = {
    name: f"tokenizer.llama_rt.{name}_ids" for name in ("lstrip", "rstrip", "single_word")
}

_PREFIX = "tokenizer.ggml."
_NO_ID = 0xFFFFFFFF
_TYPES = {1: "normal", 2: "unknown", 3: "control", 4: "user-defined", 5: "unused", 6: "byte"}


def control_note(id: int, text: str, kind: int) -> str:
    """Says that a token is read as a control token although its type is another."""
    type = _TYPES.get(kind, str(kind))
    return f"token {id} {text!r} has the type {type} and is read as a control token"


def gguf_list(
    metadata: Mapping[str, object], key: str, size: int | None, name: str
) -> Sequence[object]:
    """Returns the array `tokenizer.ggml.<key>`, of `size` elements if given.

    Raises:
        TokenizerError: The key is missing, no array, empty or of another length.
    """
    value = metadata.get(_PREFIX + key)
    value = value.tolist() if hasattr(value, "tolist") else value
    if value is None:
        msg = f"{name}: {_PREFIX}{key} is missing"
        raise TokenizerError(msg)
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        msg = f"{name}: {_PREFIX}{key}: expected an array, got {type(value).__name__}"
        raise TokenizerError(msg)
    if not value or (size is not None and len(value) != size):
        expected = "at least 1" if size is None else str(size)
        msg = f"{name}: {_PREFIX}{key}: expected {expected} elements, got {len(value)}"
        raise TokenizerError(msg)
    return value


def gguf_texts(metadata: Mapping[str, object], key: str, name: str) -> list[str]:
    """Returns the strings of the array `tokenizer.ggml.<key>`, without lone surrogates.

    Raises:
        TokenizerError: The key is missing, or no array of strings.
    """
    texts = []
    for at, text in enumerate(gguf_list(metadata, key, None, name)):
        if not isinstance(text, str):
            msg = f"{name}: {_PREFIX}{key}[{at}]: expected a string, got {type(text).__name__}"
            raise TokenizerError(msg)
        texts.append(check_text(text))
    return texts


def gguf_id(
    metadata: Mapping[str, object], key: str, size: int, name: str, default: int | None = None
) -> int | None:
    """Returns the id `tokenizer.ggml.<key>_token_id`, or `default` if it exists, or None.

    Raises:
        TokenizerError: The id is outside `[0, size)`.
    """
    value = metadata.get(f"{_PREFIX}{key}_token_id")
    if value is None:
        return default if default is not None and default < size else None
    number = gguf_number(value, f"{key}_token_id", name)
    if number in (_NO_ID, -1):
        return None
    if not 0 <= number < size or number % 1:
        msg = f"{name}: {_PREFIX}{key}_token_id: {number} is not in [0, {size})"
        raise TokenizerError(msg)
    return int(number)


def gguf_flag(metadata: Mapping[str, object], key: str, default: bool, name: str) -> bool:
    """Returns the flag `tokenizer.ggml.<key>`."""
    value = metadata.get(_PREFIX + key)
    return default if value is None else bool(gguf_number(value, key, name))


def gguf_number(value: object, key: str, name: str) -> float:
    """Returns a number of the key `tokenizer.ggml.<key>`.

    Raises:
        TokenizerError: It is none.
    """
    if isinstance(value, (int, float)):
        return value
    item = getattr(value, "item", None)  # a numpy scalar
    if item is not None and isinstance(item(), (int, float)):
        return float(item())
    msg = f"{name}: {_PREFIX}{key}: expected a number, got {type(value).__name__}"
    raise TokenizerError(msg)


def token_flags(metadata: Mapping[str, object], size: int, name: str) -> dict[int, dict[str, bool]]:
    """Returns the flags of `TOKEN_FLAGS` that are set, by token.

    Raises:
        TokenizerError: A key is no list of ids in `[0, size)`.
    """
    found: dict[int, dict[str, bool]] = {}
    for flag, key in TOKEN_FLAGS.items():
        ids = metadata.get(key, [])
        if not isinstance(ids, list) or not all(type(id) is int and 0 <= id < size for id in ids):
            msg = f"{name}: {key}: expected ids in [0, {size})"
            raise TokenizerError(msg)
        for id in ids:
            found.setdefault(id, {})[flag] = True
    return found
