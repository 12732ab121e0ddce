"""What a path is: one sentence, with what is missing and the command to run.

A base model, a delta, or an adapter and for what size; told by content. A name only ever suggests
the prompts of a project, and the sentence says that it does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llama_rt.adapters import SIZES, AdapterFile, open_adapter, split_options
from llama_rt.chat import checkpoint_templates, template_names
from llama_rt.checkpoint import Checkpoint, open_checkpoint
from llama_rt.checkpoint.delta import looks_like_a_delta
from llama_rt.checkpoint.koala import is_koala, koala_width
from llama_rt.errors import CheckpointError, LlamaRtError
from llama_rt.files import kind_of
from llama_rt.tokenizer import load_tokenizer

__all__ = ["Identity", "identify"]

# Projects by what their files are called, and the prompts that they were trained on.
_PROJECTS = (
    (r"vicuna.*v0|vicuna.*delta(?!.*v1)", "Vicuna v0", "vicuna-v0"),
    (r"vicuna", "Vicuna", "vicuna-v1.1"),
    (r"koala", "Koala", "koala"),
    (r"baize", "Baize", "baize"),
    (r"gpt4all", "GPT4All of March 2023", "gpt4all"),
    (r"chat-?doctor.*lora", "ChatDoctor's LoRA", "chatdoctor-lora"),
    (r"chat-?doctor", "ChatDoctor", "chatdoctor"),
    (r"alpaca-?lora|lora-?alpaca", "Alpaca-LoRA", "alpaca-lora"),
    (r"alpaca", "Stanford Alpaca", "alpaca"),
    (r"llama-?2.*chat", "Llama 2 Chat", "llama-2"),
    (r"llama-?3.*instruct", "Llama 3 Instruct", "llama-3"),
)
# Kinds of adapters of which there is one release.
_TRAINED_ON = {"LLaMA-Adapter V1": "llama-adapter", "LLaMA-Adapter V2": "llama-adapter-v2"}
_FORMATS = {
    "meta": "in Meta's layout",
    "hf": "in Hugging Face's layout",
    "gguf": "in a GGUF file",
    "safetensors": "in a safetensors file",
}


@dataclass(frozen=True, slots=True)
class Identity:
    """What a path is.

    Attributes:
        path: as given.
        kind: the role that it can play.
        what: a noun phrase.
        missing: what else it takes, or "".
        command: how to run it.
        template: prompts of the project that it comes from, or None.
        why_template: what tells so.
        certain: the content tells so, not a name.
    """

    path: str
    kind: Literal["model", "delta", "adapter"]
    what: str
    missing: str
    command: str
    template: str | None = None
    why_template: str = ""
    certain: bool = False

    @property
    def sentence(self) -> str:
        """One sentence: what it is, what is missing, what to run."""
        said = f"{self.path}: {self.what}"
        if self.missing:
            said += f"; {self.missing}"
        if self.template:
            said += f"; prompts: --template {self.template} ({self.why_template})"
        return f"{said}; run it with: {self.command}"


def identify(path: str | Path) -> Identity:
    """Tells what is at a path, from headers and one small tensor.

    Raises:
        CheckpointNotFoundError: there is nothing.
        CheckpointError: it is none of the three; says what it is, or what is wrong with it.
        ConfigError: a model that is not computed here.
    """
    place = split_options(path)[0]
    if is_koala(place):
        return _koala(place)
    try:
        checkpoint = open_checkpoint(path)
    except CheckpointError as error:
        if kind_of(place) == "nothing":
            raise
        if not _may_be_adapter(place):
            raise
        try:
            adapter = open_adapter(path)
        except LlamaRtError as other:
            raise (other if "adapter" in str(error).lower() else error) from None
        return _adapter(str(path), adapter)
    return _model(str(path), checkpoint)


def _may_be_adapter(place: Path) -> bool:
    """Whether something at a path that is no model can be an adapter."""
    return kind_of(place) == "file" or kind_of(place / "adapter_config.json") != "nothing"


def _koala(path: Path) -> Identity:
    width = koala_width(path)
    return Identity(
        str(path),
        "delta",
        f"Koala's difference to LLaMA{_size(width)} (EasyLM's stream, width {width})",
        f"its base is missing: LLaMA{_size(width)} as Meta released it",
        _command(str(path), "--base LLAMA", "koala"),
        "koala",
        "only Koala was published so",
        certain=True,
    )


def _model(path: str, checkpoint: Checkpoint) -> Identity:
    config = checkpoint.config
    size = f"{checkpoint.parameters / 1e9:.2f} billion parameters"
    if checkpoint.parameters < 10**8:
        size = f"{checkpoint.parameters / 1e6:.2f} million parameters"
    form = str(checkpoint.metadata.get("general.file_format") or "")
    layout = f"in a {form} file" if form else _FORMATS[checkpoint.kind]
    template, why = _by_name(path)
    if looks_like_a_delta(checkpoint):
        return Identity(
            path,
            "delta",
            f"a delta of {size} (width {config.dim}, {config.vocab_size} tokens) {layout}: its "
            "last norm is near 0, not near 1",
            f"its base is missing: the LLaMA{_size(config.dim)} that it was taken from",
            _command(path, "--base LLAMA", template),
            template,
            why,
        )
    own = checkpoint_templates(checkpoint.metadata, checkpoint.path)
    if "checkpoint" in own:
        template, why = None, ""
    missing = _missing_tokenizer(checkpoint)
    return Identity(
        path,
        "model",
        f"a model of {size} {layout}" + (", with its own chat template" if own else ""),
        missing,
        _command(path, "--tokenizer PATH" * bool(missing), template, chat="checkpoint" in own),
        template,
        why,
    )


def _adapter(path: str, adapter: AdapterFile) -> Identity:
    template, why = _by_name(path)
    trained_on = _TRAINED_ON.get(adapter.kind)
    if trained_on:
        template, why = trained_on, f"what {adapter.kind} was trained on"
    width = adapter.dim or 0
    layers = adapter.base_layers or adapter.n_layers
    sizes = f"width {width}, {layers} layers" + ("" if adapter.base_layers else " or more")
    return Identity(
        path,
        "adapter",
        f"{_article(adapter.kind)} {adapter.kind} for a model like LLaMA{_size(width)} ({sizes})",
        "its base model is missing",
        _command("LLAMA", f"--adapter {path}", template),
        template,
        why,
        certain=trained_on is not None,
    )


def _missing_tokenizer(checkpoint: Checkpoint) -> str:
    try:
        load_tokenizer(checkpoint.tokenizer_source, checkpoint.metadata, checkpoint.kind)
    except LlamaRtError as error:
        return f"its tokenizer is missing: {error}"
    return ""


def _by_name(path: str) -> tuple[str | None, str]:
    """Prompts that the name suggests."""
    name = Path(path).name.lower().replace("_", "-")
    for pattern, project, template in _PROJECTS:
        if re.search(pattern, name) and template in template_names():
            return template, f"the name says {project}"
    return None, ""


def _command(model: str, options: str, template: str | None, *, chat: bool = False) -> str:
    words = ["llama-rt", "chat" if template or chat else "run", "-m", model]
    words += [options] if options else []
    words += ["--template", template] if template else []
    return " ".join(words)


def _size(width: int) -> str:
    return f" {SIZES[width]}" if width in SIZES else ""


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiouAEIOU" else "a"
