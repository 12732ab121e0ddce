"""What a checkpoint brings for chat: Jinja sources, and the special tokens that they name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from llama_rt.errors import TemplateError, TokenizerError
from llama_rt.tokenizer import Tokenizer
from llama_rt.tokenizer_files import is_file, is_folder, json_object, read_bytes

__all__ = ["adds_bos", "checkpoint_templates", "read_template", "token_texts"]

_GGUF_KEY = "tokenizer.chat_template"
_GGUF_TOKENS = {"unk_token": "unknown", "pad_token": "padding"}
_UNKNOWN = "<unk>"
_MAX_BYTES = 1 << 20


def checkpoint_templates(
    metadata: Mapping[str, object] | None, path: str | Path | None
) -> dict[str, tuple[str, str]]:
    """Finds the templates a checkpoint brings.

    Returns:
        (Jinja source, file or key) by name; the default one is called `"checkpoint"`. Sources:
        `chat_template.jinja`, `chat_template.json`, `additional_chat_templates/`,
        `tokenizer_config.json`, GGUF's `tokenizer.chat_template` and `tokenizer.chat_template.*`.

    Raises:
        TemplateError: A file cannot be read.
    """
    found: dict[str, tuple[str, str]] = {}
    for key, value in (metadata or {}).items():
        if isinstance(value, str) and (key == _GGUF_KEY or key.startswith(_GGUF_KEY + ".")):
            found[key[len(_GGUF_KEY) + 1 :] or "checkpoint"] = (value, key)
    folder = _folder(path)
    if folder is None:
        return found
    for file in (folder / "tokenizer_config.json", folder / "chat_template.json"):
        found |= _from_json(_json(file).get("chat_template"), str(file))
    for file in sorted(folder.glob("additional_chat_templates/*.jinja")):
        found[file.stem] = (read_template(file) or "", str(file))
    file = folder / "chat_template.jinja"
    source = read_template(file)
    if source is not None:
        found["checkpoint"] = (source, str(file))
    return found


def token_texts(
    metadata: Mapping[str, object] | None, path: str | Path | None, tokenizer: Tokenizer
) -> dict[str, str]:
    """Finds the texts of special tokens, as a template names them (`unk_token`, `pad_token`, ...).

    The JSON files count as they do for transformers, which reads `special_tokens_map.json` only
    where `tokenizer_config.json` does not list its tokens, and of which a tokenizer of this family
    has `<unk>` without being told.

    Raises:
        TemplateError: A file cannot be read.
    """
    folder = _folder(path)
    named = {} if folder is None else _json(folder / "tokenizer_config.json")
    if folder is not None and "added_tokens_decoder" not in named:
        named |= _json(folder / "special_tokens_map.json")
    found = {"unk_token": _UNKNOWN} if _UNKNOWN in tokenizer.special_ids else {}
    for name, value in named.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            found[name] = text
    for name, key in _GGUF_TOKENS.items():
        id = (metadata or {}).get(f"tokenizer.ggml.{key}_token_id")
        if isinstance(id, int) and 0 <= id < tokenizer.vocab_size:
            found[name] = tokenizer.piece(id)
    return found


def adds_bos(
    metadata: Mapping[str, object] | None, path: str | Path | None, tokenizer: Tokenizer
) -> bool:
    """Says whether a prompt without begin-of-text gets one: the checkpoint's flag or the rule.

    Raises:
        TemplateError: A file cannot be read.
    """
    flag = (metadata or {}).get("tokenizer.ggml.add_bos_token")
    folder = _folder(path)
    if flag is None and folder is not None:
        flag = _json(folder / "tokenizer_config.json").get("add_bos_token")
    return tokenizer.settings.add_bos if flag is None else bool(flag)


def read_template(file: Path) -> str | None:
    """Reads a Jinja source; None if there is no such file.

    Raises:
        TemplateError: The file cannot be read, or is far too large for a template.
    """
    try:
        if not is_file(file):
            return None
        data = read_bytes(file, _MAX_BYTES + 1)
    except TokenizerError as error:
        raise TemplateError(str(error)) from None
    if len(data) > _MAX_BYTES:
        msg = f"{file}: too large for a chat template (at most {_MAX_BYTES} bytes)"
        raise TemplateError(msg)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        msg = f"{file}: cannot be read: {error}"
        raise TemplateError(msg) from None


def _folder(path: str | Path | None) -> Path | None:
    """Returns the folder whose files belong to the checkpoint; a GGUF file has none."""
    if path is None or Path(path).suffix == ".gguf":
        return None
    try:
        folder = Path(path) if is_folder(Path(path)) else Path(path).parent
        return folder if is_folder(folder) else None
    except TokenizerError as error:
        raise TemplateError(str(error)) from None


def _json(file: Path) -> dict[str, object]:
    try:
        return json_object(file)
    except TokenizerError as error:
        raise TemplateError(str(error)) from None


def _from_json(value: object, origin: str) -> dict[str, tuple[str, str]]:
    """Reads a template, or a list (or map) of named ones, the first called default."""
    if isinstance(value, str):
        return {"checkpoint": (value, origin)}
    if isinstance(value, dict):
        value = [{"name": name, "template": template} for name, template in value.items()]
    found: dict[str, tuple[str, str]] = {}
    for item in value if isinstance(value, list) else []:
        name, source = (
            (item.get("name"), item.get("template")) if isinstance(item, dict) else ("", "")
        )
        if isinstance(name, str) and isinstance(source, str):
            found["checkpoint" if name == "default" else name] = (source, f"{origin} ({name})")
    return found
