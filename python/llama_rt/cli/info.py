"""`llama-rt info`: what a checkpoint is, and what it would take on this computer.

Reads headers only. Written for a reader who has never seen the file.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from llama_rt import Plan, plan
from llama_rt.adapters import split_options
from llama_rt.api import Identity, identify
from llama_rt.benchmark import stored_formats
from llama_rt.chat import checkpoint_templates
from llama_rt.checkpoint import Checkpoint, find_checkpoint
from llama_rt.cli.console import Console, plural, rate, size
from llama_rt.cli.options import add_shared
from llama_rt.errors import CheckpointError, LlamaRtError
from llama_rt.tokenizer import Tokenizer, load_tokenizer

NAME = "info"
USAGE = "[MODEL] [options]"
SUMMARY = "tell what a checkpoint is, and how it would run here"
EXAMPLES = """\
  llama-rt info path/to/model
  llama-rt info model.gguf --quantize q4_0 --ctx 8192
  llama-rt info model.gguf --json
"""

_KINDS = {
    "meta": "Meta folder (params.json, consolidated.*.pth)",
    "hf": "Hugging Face folder",
    "gguf": "GGUF",
    "safetensors": "safetensors",
}
_TOKENIZERS = {"SpmTokenizer": "SentencePiece", "BpeTokenizer": "byte-level BPE"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a folder, a file, or org/name on the Hub; the built-in model if left out",
    )
    group = parser.add_argument_group("the plan")
    add_shared(
        group,
        *("device", "quantize", "ctx"),
        quantize={"help": "as if loaded in this format"},
        ctx={"help": "as if loaded with this context"},
    )


def execute(args: argparse.Namespace, console: Console) -> int:
    """Reads the headers, and prints what they say."""
    try:
        checkpoint = find_checkpoint(args.model)
    except CheckpointError:
        if args.model is None or not split_options(args.model)[0].exists():
            raise
        return _alone(identify(args.model), console)
    identity = identify(checkpoint.path) if args.model is not None else None
    if identity is not None and identity.kind != "model":
        return _alone(identity, console)
    estimate = plan(
        args.model, device=args.device or "auto", quantize=args.quantize, n_ctx=args.ctx
    )
    tokenizer, why_not = _tokenizer(checkpoint)
    if console.json:
        console.object(_object(checkpoint, estimate, tokenizer, why_not))
        return 0
    console.table(_describe(checkpoint, tokenizer, why_not))
    if identity is not None:
        console.line()
        console.line(identity.sentence)
    console.line()
    console.line(console.styled("On this machine", "bold"))
    console.table(_plan_rows(estimate))
    for note in estimate.notes:
        console.line(f"  {note}")
    return 0


def _alone(identity: Identity, console: Console) -> int:
    """Something that is no model by itself: what it is, and what to do with it."""
    if console.json:
        console.object(asdict(identity) | {"sentence": identity.sentence})
    else:
        console.line(identity.sentence)
    return 0


def _tokenizer(checkpoint: Checkpoint) -> tuple[Tokenizer | None, str]:
    """The tokenizer, or why it cannot be had."""
    try:
        found = load_tokenizer(checkpoint.tokenizer_source, checkpoint.metadata, checkpoint.kind)
    except LlamaRtError as error:
        return None, str(error)
    return found, ""


def _describe(checkpoint: Checkpoint, tokenizer: Tokenizer | None, why_not: str) -> dict[str, str]:
    config = checkpoint.config
    heads = plural(config.n_heads, "attention head")
    if config.n_kv_heads != config.n_heads:
        heads += f" that share {plural(config.n_kv_heads, 'key/value head')}"
    window = (
        f", each token sees the last {config.sliding_window:,}" if config.sliding_window else ""
    )
    extras = [
        name
        for name, there in (
            ("tied embeddings", config.tie_embeddings),
            ("attention biases", config.attention_bias),
            ("MLP biases", config.mlp_bias),
        )
        if there
    ]
    stored = ", ".join(
        f"{name} {size(count)}" for name, count in stored_formats(checkpoint).items()
    )
    rows = {
        "model": config.name or checkpoint.path.name,
        "kind": f"{_kind(checkpoint)}, {plural(len(checkpoint.tensors), 'tensor')} "
        f"in {plural(max(1, len(checkpoint.files)), 'file')}",
        "architecture": f"LLaMA: {plural(config.n_layers, 'layer')} of width {config.dim:,}, "
        f"feed-forward {config.ffn_dim:,}",
        "attention": f"{heads}, {config.head_dim} wide{window}",
        "parameters": count_words(checkpoint.parameters),
        "stored as": stored,
        "context": f"{plural(config.max_context, 'token')}",
        "rope": _rope(checkpoint),
        "vocabulary": plural(config.vocab_size, "token"),
        "tokenizer": _tokenizer_words(tokenizer, why_not),
        "chat template": _template_words(checkpoint),
    }
    if checkpoint.quantization:
        rows["quantized as"] = checkpoint.quantization
    if extras:
        rows["also"] = ", ".join(extras)
    return rows


def _kind(checkpoint: Checkpoint) -> str:
    form = checkpoint.metadata.get("general.file_format")
    return form if isinstance(form, str) else _KINDS[checkpoint.kind]


def count_words(count: int) -> str:
    """A number of parameters as people say it: `6.74 billion`."""
    for unit, word in ((10**9, "billion"), (10**6, "million"), (10**3, "thousand")):
        if count >= unit:
            return f"{count / unit:.3g} {word}"
    return str(count)


def _rope(checkpoint: Checkpoint) -> str:
    config, scaling = checkpoint.config, checkpoint.config.rope_scaling
    words = f"base {config.rope_theta:g}, pairs {config.rope_style}"
    if scaling.kind == "none":
        return words
    words += f", scaled by {scaling.factor:g} ({scaling.kind})"
    original = scaling.original_context
    return f"{words}, trained at {plural(original, 'token')}" if original else words


def _tokenizer_words(tokenizer: Tokenizer | None, why_not: str) -> str:
    if tokenizer is None:
        return f"none: {why_not}"
    ends = ", ".join(str(i) for i in sorted(tokenizer.stop_ids)) or "none"
    kind = _TOKENIZERS.get(type(tokenizer).__name__, type(tokenizer).__name__)
    settings = tokenizer.settings
    rules = [
        f"{what} {', '.join(map(str, ids))}"
        for what, ids in (
            ("; a text begins with id", settings.prefix_ids),
            (" and ends with id", settings.suffix_ids),
        )
        if ids
    ]
    pieces = plural(tokenizer.vocab_size, "piece")
    words = f"{kind}, {pieces}{''.join(rules)}; an answer ends with {ends}"
    return "\n".join([words, *settings.notes])


def _template_words(checkpoint: Checkpoint) -> str:
    own = checkpoint_templates(checkpoint.metadata, checkpoint.path)
    if not own:
        return "none of its own; llama-rt chat --template NAME chooses one"
    return "its own" if set(own) == {"checkpoint"} else f"its own: {', '.join(sorted(own))}"


def _plan_rows(estimate: Plan) -> dict[str, str]:
    verdict = "fits" if estimate.fits else "does NOT fit"
    return {
        "memory": f"{verdict}: {size(estimate.total_bytes)} of "
        f"{size(estimate.available_bytes)} that are free",
        "  weights": size(estimate.weights_bytes),
        "  cache": f"{size(estimate.kv_bytes)} when all {plural(estimate.n_ctx, 'token')} of "
        "context are used; taken as it fills",
        "  workspace": size(estimate.workspace_bytes),
        "runs on": estimate.runs_on,
        "speed": f"writes about {rate(estimate.decode_tok_s)}, reads prompts at about "
        f"{rate(estimate.prefill_tok_s)} (estimated from memory and matrix speed)",
        "GPU sizes": "\n".join(f"{card} GB: {what}" for card, what in estimate.cards.items()),
    }


def _object(
    checkpoint: Checkpoint, estimate: Plan, tokenizer: Tokenizer | None, why_not: str
) -> dict[str, object]:
    known: Mapping[str, object] | None = None
    if tokenizer is not None:
        known = {
            "kind": _TOKENIZERS.get(type(tokenizer).__name__, type(tokenizer).__name__),
            "vocab_size": tokenizer.vocab_size,
            "bos_id": tokenizer.bos_id,
            "eos_id": tokenizer.eos_id,
            "stop_ids": sorted(tokenizer.stop_ids),
            "add_bos": tokenizer.settings.add_bos,
            "add_eos": tokenizer.settings.add_eos,
            "pre_tokenizer": tokenizer.settings.pre_tokenizer,
            "notes": list(tokenizer.settings.notes),
        }
    planned = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in asdict(estimate).items()
    }
    return {
        "path": str(checkpoint.path),
        "kind": checkpoint.kind,
        "config": asdict(checkpoint.config),
        "parameters": checkpoint.parameters,
        "tensors": len(checkpoint.tensors),
        "stored_bytes": checkpoint.nbytes,
        "formats": stored_formats(checkpoint),
        "quantization": checkpoint.quantization or None,
        "tokenizer": known,
        "tokenizer_error": why_not or None,
        "chat_templates": sorted(checkpoint_templates(checkpoint.metadata, checkpoint.path)),
        "plan": planned | {"total_bytes": estimate.total_bytes},
    }
