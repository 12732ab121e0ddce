"""Which template a conversation uses: the caller's choice, or the checkpoint's own. No guessing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from llama_rt.chat.jinja_template import JinjaTemplate
from llama_rt.chat.named import ALIASES, FORMATS
from llama_rt.chat.named_template import NamedTemplate
from llama_rt.errors import TemplateError, TokenizerError
from llama_rt.tokenizer import Tokenizer
from llama_rt.tokenizer.spm_folder import json_object

__all__ = ["Template", "checkpoint_templates", "choose_template", "template_names"]

_GGUF_KEY = "tokenizer.chat_template"
_MAX_BYTES = 1 << 20
_MAX_PATH = 1024  # characters; the system refuses longer names with an error of its own


class Template(Protocol):
    """A way to turn a conversation into a prompt, bound to a tokenizer.

    Attributes:
        name: Name of the format, or `"checkpoint"`.
        origin: Whose format it is, or the file it came from.
        stop: Strings that end an answer, besides the tokenizer's stop ids.
        sampling: `SamplingParams` fields as the project's demo had them.
        max_tokens: Longest answer of the demo, or None.
        system: Default system text, "" for none.
    """

    name: str
    origin: str
    stop: tuple[str, ...]
    sampling: Mapping[str, float]
    max_tokens: int | None
    system: str

    def render(self, messages: list[Mapping[str, object]], /) -> list[int]:
        """Returns the prompt's ids (begin-of-text included), ready to be continued."""
        ...

    def render_text(self, messages: list[Mapping[str, object]], /) -> str:
        """Returns the prompt for display."""
        ...

    def reply(self, text: str, /) -> str:
        """Returns a generated answer as it goes into the history."""
        ...


def template_names() -> list[str]:
    """Lists the named formats."""
    return list(FORMATS)


def choose_template(
    name: str | Path | None,
    tokenizer: Tokenizer,
    metadata: Mapping[str, object] | None = None,
    path: str | Path | None = None,
) -> Template:
    """Returns the template asked for, or the checkpoint's own.

    Args:
        name: None for the checkpoint's own template; one of `template_names()`; the name of one of
            the checkpoint's templates; a file with a Jinja template; or Jinja source itself.
        tokenizer: The checkpoint's tokenizer.
        metadata: GGUF keys (`config.json` has no template).
        path: The checkpoint.

    Raises:
        TemplateError: There is no such template, or none was asked for and the checkpoint brings
            none; names the choices.
    """
    own = checkpoint_templates(metadata, path)
    add_bos = _adds_bos(metadata, path)
    if name is None:
        if "checkpoint" in own:
            source, origin = own["checkpoint"]
            return JinjaTemplate(source, tokenizer, origin=origin, add_bos=add_bos)
        where = "this model" if path is None else str(path)
        msg = f"{where} brings no chat template, and none is guessed: choose one of {_choices(own)}"
        raise TemplateError(msg)
    text = str(name)
    if text in own:
        source, origin = own[text]
        return JinjaTemplate(source, tokenizer, name=text, origin=origin, add_bos=add_bos)
    key = text.lower().replace("_", "-")
    key = ALIASES.get(key, key)
    if key in FORMATS:
        return NamedTemplate(FORMATS[key], tokenizer)
    if "{%" in text or "{{" in text:
        return JinjaTemplate(text, tokenizer, origin="the given template", add_bos=add_bos)
    if len(text) < _MAX_PATH and Path(text).is_file():
        source = _read(Path(text))
        return JinjaTemplate(source, tokenizer, name=text, origin=text, add_bos=add_bos)
    msg = f"chat template {text[:80]!r} is neither a file nor one of {_choices(own)}"
    raise TemplateError(msg)


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
    if path is None:
        return found
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    if Path(path).suffix == ".gguf" or not folder.is_dir():
        return found
    try:
        for file in (folder / "tokenizer_config.json", folder / "chat_template.json"):
            found |= _from_json(json_object(file).get("chat_template"), str(file))
    except TokenizerError as error:
        raise TemplateError(str(error)) from None
    for file in sorted(folder.glob("additional_chat_templates/*.jinja")):
        found[file.stem] = (_read(file), str(file))
    file = folder / "chat_template.jinja"
    if file.is_file():
        found["checkpoint"] = (_read(file), str(file))
    return found


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


def _adds_bos(metadata: Mapping[str, object] | None, path: str | Path | None) -> bool:
    """Says whether a prompt without begin-of-text gets one; only an explicit no counts."""
    flag = (metadata or {}).get("tokenizer.ggml.add_bos_token")
    if flag is None and path is not None and Path(path).is_dir():
        try:
            flag = json_object(Path(path) / "tokenizer_config.json").get("add_bos_token")
        except TokenizerError as error:
            raise TemplateError(str(error)) from None
    return flag is None or bool(flag)


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > _MAX_BYTES:
            msg = f"{file}: too large for a chat template (at most {_MAX_BYTES} bytes)"
            raise TemplateError(msg)
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{file}: cannot be read: {error}"
        raise TemplateError(msg) from None


def _choices(own: Mapping[str, object]) -> str:
    return ", ".join([*own, *FORMATS])
