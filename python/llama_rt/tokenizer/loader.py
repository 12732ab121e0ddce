"""Finding a checkpoint's tokenizer: which file decides, and who reads it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sized
from pathlib import Path

from llama_rt.errors import TokenizerError
from llama_rt.tokenizer.protocol import Tokenizer
from llama_rt.tokenizer.sentencepiece.spm_folder import spm_from_file
from llama_rt.tokenizer.sentencepiece.spm_gguf import spm_from_gguf
from llama_rt.tokenizer_files import is_file, is_folder, json_object, read_bytes

__all__ = ["find_tokenizer", "load_tokenizer"]

_TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+=* \d+\r?\n")

_MISTRAL = ("v15", "v13", "v11", "v7m1", "v7", "v3", "v2", "v1")  # the newest first


def load_tokenizer(
    checkpoint_path: Path,
    metadata: Mapping[str, object] | None,
    kind: str,
    override: str | os.PathLike[str] | None = None,
) -> Tokenizer:
    """Opens the tokenizer that belongs to a checkpoint.

    A folder's sentencepiece `tokenizer.model` comes before its `tokenizer.json`, which comes before
    Meta's ranks of Llama 3 (also called `tokenizer.model`) and Mistral's own `tekken.json` and
    `tokenizer.model.v3`; Meta's layout may keep the file one folder up. A GGUF file brings its own
    vocabulary.

    Args:
        checkpoint_path: Folder or file of the checkpoint.
        metadata: GGUF keys, `config.json` or `params.json`.
        kind: `"meta"`, `"hf"`, `"gguf"` or `"safetensors"`.
        override: Tokenizer file, or folder with one, to use instead; the argument `tokenizer` of
            `Llama.load`.

    Raises:
        TypeError: `override` is no path.
        TokenizerError: There is no tokenizer, or it cannot be read; names the file.
        MissingExtraError: It needs the `tokenizers` package (extra `hf`).
    """
    checkpoint_path = Path(checkpoint_path)
    if override is not None:
        if kind == "gguf":  # the vocabulary in the file still says how many rows there are
            tokens = (metadata or {}).get("tokenizer.ggml.tokens")
            metadata = {"vocab_size": len(tokens)} if isinstance(tokens, Sized) else None
        return _from_path(_given(override), metadata)
    if kind == "gguf":
        return _from_gguf(metadata or {}, str(checkpoint_path))
    folder = checkpoint_path if is_folder(checkpoint_path) else checkpoint_path.parent
    folders = [folder, folder.parent] if kind == "meta" else [folder]
    for candidate in folders:
        file = find_tokenizer(candidate)
        if file is not None:
            return _from_file(file, metadata)
    looked = " or ".join(str(candidate) for candidate in folders)
    msg = f"no tokenizer.model or tokenizer.json in {looked}: give one with tokenizer=PATH"
    raise TokenizerError(msg)


def _given(override: object) -> Path:
    if not isinstance(override, (str, os.PathLike)):
        msg = f"tokenizer: expected a path or None, got {type(override).__name__}"
        raise TypeError(msg)
    # Not `Path.expanduser`, which raises for an unknown user: there is nothing at such a path.
    return Path(os.path.expanduser(override))  # noqa: PTH111


def _from_path(path: Path, metadata: Mapping[str, object] | None) -> Tokenizer:
    file = find_tokenizer(path) if is_folder(path) else path
    if file is None:
        msg = f"{path}: no tokenizer.model or tokenizer.json in this folder"
        raise TokenizerError(msg)
    if not is_file(file):
        msg = f"{file}: no such tokenizer file"
        raise TokenizerError(msg)
    return _from_file(file, metadata)


def find_tokenizer(folder: Path) -> Path | None:
    """Returns the file of a folder that decides.

    sentencepiece's comes first, then `tokenizer.json`, Meta's ranks of Llama 3, and Mistral's own.
    """
    model, fast = folder / "tokenizer.model", folder / "tokenizer.json"
    if is_file(fast) and not (is_file(model) and not _is_ranks(model)):
        return fast
    own = [folder / "tekken.json", *(folder / f"tokenizer.model.{name}" for name in _MISTRAL)]
    return next((file for file in (model, *own) if is_file(file)), None)


def _is_ranks(file: Path) -> bool:
    return _TIKTOKEN_LINE.match(read_bytes(file, 4096)) is not None


def _from_file(file: Path, metadata: Mapping[str, object] | None) -> Tokenizer:
    if file.suffix == ".json":
        from llama_rt.tokenizer.bpe import bpe_json, bpe_tekken

        document = json_object(file)
        if bpe_tekken.is_tekken(document):
            return bpe_tekken.tokenizer_from_tekken(document, file, metadata)
        return bpe_json.tokenizer_from_json(document, file, metadata)
    if file.suffix == ".gguf":
        msg = f"{file}: expected tokenizer.model or tokenizer.json, got a GGUF file"
        raise TokenizerError(msg)
    if _is_ranks(file):
        from llama_rt.tokenizer.bpe import bpe_ranks

        return bpe_ranks.tokenizer_from_ranks(read_bytes(file), file, metadata)
    return spm_from_file(file, metadata)


def _from_gguf(metadata: Mapping[str, object], name: str) -> Tokenizer:
    model = metadata.get("tokenizer.ggml.model")
    if model == "llama":
        return spm_from_gguf(metadata, name)
    if model == "gpt2":
        from llama_rt.tokenizer.bpe import bpe_gguf

        return bpe_gguf.bpe_from_gguf(metadata, name)
    if model in (None, "none", "no_vocab"):
        msg = f"{name}: the file has no tokenizer: give one with tokenizer=PATH"
        raise TokenizerError(msg)
    msg = f"{name}: tokenizer.ggml.model {model!r} is not supported (llama and gpt2 are)"
    raise TokenizerError(msg)
