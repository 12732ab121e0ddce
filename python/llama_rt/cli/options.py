"""Options that several commands share: how a model is loaded and how tokens are sampled.

Defaults live in `Llama.load` and `SamplingParams`; an option that was not given is not passed on.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llama_rt import Llama, SamplingParams
from llama_rt.cli.console import Console
from llama_rt.convert import formats
from llama_rt.hardware import isa_names
from llama_rt.memory import KV_DTYPES

__all__ = [
    "UsageError",
    "add_loading",
    "add_model",
    "add_sampling",
    "add_shared",
    "load",
    "model_path",
    "named_path",
    "natural",
    "positive",
    "read_text",
    "sampling_params",
    "utf8",
    "whole",
]

_LOADING = ("device", "quantize", "kv_dtype", "threads", "isa", "repack", "base", "tokenizer")
_SAMPLING: dict[str, tuple[type, str]] = {
    "temperature": (float, "0 is greedy; higher is wilder"),
    "top_k": (int, "sample from the K most likely tokens only; 0 is off"),
    "top_p": (float, "sample from the most likely tokens that sum to X; 1 is off"),
    "min_p": (float, "leave out tokens less likely than X times the best; 0 is off"),
    "typical_p": (float, "locally typical sampling; 1 is off"),
    "repetition_penalty": (float, "divide the logits of seen tokens; 1 is off"),
    "presence_penalty": (float, "subtract from the logits of generated tokens; 0 is off"),
    "frequency_penalty": (float, "subtract per time a token was generated; 0 is off"),
}


class UsageError(Exception):
    """The command line cannot be understood; the message is for the person who typed it."""


def whole(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    """What reads a whole number from `minimum` to `maximum`."""
    expected = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"

    def read(text: str) -> int:
        if not text.isdecimal() or not minimum <= int(text) <= (maximum or int(text)):
            msg = f"'{text}' is not a whole number {expected}"
            raise argparse.ArgumentTypeError(msg)
        return int(text)

    return read


natural, positive = whole(0), whole(1)


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,9})?", text):
        msg = f"'{text}' is not auto, cpu, cuda or cuda:N"
        raise argparse.ArgumentTypeError(msg)
    return text


# Options of several commands; a value that cannot be right is refused before anything is read.
_SHARED: dict[str, dict[str, Any]] = {
    "device": {"type": _device, "metavar": "D", "help": "auto (default), cpu, cuda or cuda:N"},
    "quantize": {
        "choices": formats(),
        "metavar": "F",
        "help": "weights in this format, such as q8_0",
    },
    "ctx": {
        "type": positive,
        "metavar": "N",
        "help": "context in tokens; the model's own by default",
    },
    "kv-dtype": {
        "choices": KV_DTYPES,
        "metavar": "T",
        "help": "cache type: f16 (default), bf16, f32, q8_0",
    },
    "threads": {"type": whole(1, 4096), "metavar": "N", "help": "threads to compute with"},
    "isa": {
        "choices": isa_names(),
        "metavar": "LEVEL",
        "help": "highest instruction set to use, such as avx2",
    },
    "repack": {
        "choices": ("auto", "never", "always"),
        "help": "copy weights into a faster layout",
    },
}


def add_shared(
    group: argparse._ActionsContainer, *names: str, **changed: Mapping[str, object]
) -> None:
    """Declares shared options by name; `changed` says what is different in this command."""
    for name in names:
        group.add_argument(f"--{name}", **(_SHARED[name] | dict(changed.get(name, {}))))


def add_model(parser: argparse.ArgumentParser) -> None:
    """Declares `-m`, the model."""
    parser.add_argument(
        "-m",
        "--model",
        metavar="MODEL",
        help="a Meta or Hugging Face folder, a .gguf or .safetensors file, org/name on the Hub; "
        "the built-in model if left out",
    )


def add_loading(parser: argparse.ArgumentParser, **changed: Mapping[str, object]) -> None:
    """The options of `Llama.load`; `changed` is that of `add_shared`."""
    group = parser.add_argument_group("loading")
    add_shared(group, *_SHARED, **changed)
    group.add_argument("--base", metavar="MODEL", help="the model that a delta is added to")
    group.add_argument(
        "--adapter",
        action="append",
        metavar="[NAME=]PATH",
        help="a LoRA or LLaMA-Adapter file or folder; may be repeated",
    )
    group.add_argument("--tokenizer", metavar="PATH", help="a tokenizer other than the model's")
    group.add_argument("--template", metavar="NAME", help="the chat template, by name or file")
    group.add_argument(
        "--reproducible", action="store_true", help="the same bits however requests are batched"
    )


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """The options of `SamplingParams`, and when to stop."""
    group = parser.add_argument_group("sampling")
    defaults = SamplingParams()
    for name, (kind, text) in _SAMPLING.items():
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            metavar="X" if kind is float else "K",
            help=f"{text} (default {getattr(defaults, name)})",
        )
    group.add_argument(
        "--logit-bias",
        action="append",
        type=_bias,
        metavar="ID=BIAS",
        help="add to the logit of a token; may be repeated",
    )
    group.add_argument("--seed", type=int, metavar="N", help="repeat a run; random if left out")
    group.add_argument(
        "--max-tokens", type=natural, metavar="N", help="stop after N tokens; else at the context"
    )
    group.add_argument(
        "--stop",
        action="append",
        type=_stop,
        metavar="TEXT",
        help=r"stop before this text (\n is a line break); may be repeated",
    )


def _bias(text: str) -> tuple[int, float]:
    try:
        token, bias = text.split("=")
        return int(token), float(bias)
    except ValueError:
        msg = f"'{text}' is not ID=BIAS, such as 13=-100"
        raise argparse.ArgumentTypeError(msg) from None


def _stop(text: str) -> str:
    """A stop string, with the escapes of what a shell makes hard to type."""
    if not text:
        msg = "an empty text would stop at once"
        raise argparse.ArgumentTypeError(msg)
    escapes = {"n": "\n", "t": "\t", "\\": "\\"}
    return re.sub(r"\\([nt\\])", lambda m: escapes[m[1]], text)


def model_path(args: argparse.Namespace) -> str | None:
    """The model that was named; None is the built-in one."""
    path: str | None = args.model
    return path


def load(args: argparse.Namespace, console: Console, **more: Any) -> Llama:  # noqa: ANN401
    """Loads the model as the options say."""
    given: dict[str, Any] = {name: getattr(args, name) for name in _LOADING}
    given["n_ctx"] = args.ctx
    given["chat_template"] = args.template
    given["adapters"] = _adapters(args.adapter)
    given["reproducible"] = args.reproducible or None
    given["progress"] = None if console.err.isatty() and not console.json else False
    given = {name: value for name, value in (given | more).items() if value is not None}
    return Llama.load(model_path(args), **given)


def _adapters(given: list[str] | None) -> dict[str, str] | list[str] | None:
    """Named adapters as a mapping, unnamed ones as a list."""
    if not given:
        return None
    pairs = [named_path(text) for text in given]
    if any(name for name, _ in pairs):
        if not all(name for name, _ in pairs):
            msg = "either every --adapter has a name (NAME=PATH) or none has"
            raise UsageError(msg)
        return dict(pairs)
    return [path for _, path in pairs]


def named_path(text: str) -> tuple[str, str]:
    """Splits `NAME=PATH`; what follows a `#` belongs to the path (`x.pth#gate=tanh`).

    A path may hold the sign too (`runs/lr=1e-4`): what is there, or has a slash before it, is one.
    """
    name, sign, path = text.partition("=")
    named = sign and not {"/", "#"} & set(name) and not Path(text.partition("#")[0]).exists()
    return (name, path) if named else ("", text)


def sampling_params(
    args: argparse.Namespace, defaults: Mapping[str, float] | None = None
) -> SamplingParams:
    """`SamplingParams` as the options say; a value out of range is a mistake of usage.

    Args:
        args: the options.
        defaults: what holds for an option that was not given, before the library's own default.
    """
    given: dict[str, Any] = {name: getattr(args, name) for name in (*_SAMPLING, "seed")}
    given |= {name: value for name, value in (defaults or {}).items() if given.get(name) is None}
    if args.logit_bias:
        given["logit_bias"] = dict(args.logit_bias)
    try:
        return SamplingParams(**{name: value for name, value in given.items() if value is not None})
    except (ValueError, TypeError) as error:
        field, colon, rest = str(error).partition(":")
        msg = f"--{field.replace('_', '-')}{colon}{rest}"
        raise UsageError(msg) from error


def read_text(path: Path, console: Console) -> str:
    """A UTF-8 file; `-` is standard input."""
    return utf8(console.source.read()) if str(path) == "-" else path.read_text(encoding="utf-8")


def utf8(text: str) -> str:
    """An argument or input as text: Python hides bytes that are not UTF-8 in it (PEP 383).

    Raises:
        UnicodeDecodeError: there are such bytes.
    """
    return text.encode("utf-8", "surrogateescape").decode("utf-8")
