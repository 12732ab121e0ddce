"""`llama-rt bench`: tokens per second of a model, or of a shape with no file at all."""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from llama_rt import benchmark
from llama_rt.benchmark import SHAPES, synthetic_checkpoint
from llama_rt.checkpoint import Checkpoint, find_checkpoint
from llama_rt.cli.console import Console, duration, plural, rate, size
from llama_rt.cli.options import UsageError, add_model, add_shared, model_path, natural, positive
from llama_rt.convert import formats, write_gguf

NAME = "bench"
USAGE = "[-m MODEL | --shape S --format F] [options]"
SUMMARY = "measure tokens per second; a shape needs no file"
EXAMPLES = """\
  llama-rt bench -m model.gguf
  llama-rt bench --shape 7B --format q4_0
  llama-rt bench --shape 13B --format q8_0 --context 2048 --batch 4 --json
  llama-rt bench --shape 8x4096 --format bf16 --prompt 0 --threads 1 --profile
"""
_DEFAULT_FORMAT = "q4_0"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    add_model(parser)
    parser.add_argument(
        "--shape",
        choices=tuple(SHAPES),
        metavar="S",
        help="instead of a model, random weights made in memory: 7B, 13B, 33B, 65B, or 8x4096 "
        "(8 layers of the 7B)",
    )
    parser.add_argument(
        "--format",
        choices=formats(),
        metavar="F",
        help=f"weight format of the shape (default {_DEFAULT_FORMAT})",
    )
    parser.add_argument(
        "--save", type=Path, metavar="PATH", help="write the shape's model as a GGUF file"
    )
    group = parser.add_argument_group("what to measure")
    defaults = benchmark.Settings()
    for name, kind, text in (
        ("prompt", natural, "tokens of the prompt that is read; 0 skips it"),
        ("generate", natural, "tokens that each sequence decodes; 0 skips it"),
        ("context", natural, "tokens in the cache before decoding starts"),
        ("batch", positive, "sequences that decode together"),
        ("repeat", positive, "times that each figure is taken"),
    ):
        value = getattr(defaults, name)
        group.add_argument(
            f"--{name}", type=kind, metavar="N", default=value, help=f"{text} (default {value})"
        )
    group.add_argument("--profile", action="store_true", help="also show the time of each op")
    group.add_argument(
        "--lora-rank", type=positive, metavar="R", help="with a random LoRA of rank R"
    )
    group.add_argument(
        "--llama-adapter",
        type=positive,
        metavar="L",
        help="with a random LLaMA-Adapter of prefix length L (published: 10)",
    )
    how = parser.add_argument_group("how to run it")
    add_shared(
        how,
        *("device", "quantize", "kv-dtype", "threads", "isa", "repack"),
        quantize={"help": "re-encode a model's weights"},
    )


def execute(args: argparse.Namespace, console: Console) -> int:
    """Measures, and prints the figures."""
    checkpoint, name = _checkpoint(args)
    if args.save is not None:
        _save(checkpoint, args.save, console)
    given = {
        name: getattr(args, name)
        for name in (
            *("prompt", "generate", "context", "batch", "repeat", "profile"),
            *("lora_rank", "llama_adapter"),
            *("device", "isa", "threads", "quantize", "repack", "kv_dtype"),
        )
    }
    settings = benchmark.Settings(**{k: v for k, v in given.items() if v is not None})
    progress = None if console.err.isatty() and not console.json else False
    result = benchmark.measure(checkpoint, settings, progress=progress)
    if console.json:
        console.object(_object(name, result, settings))
    else:
        _report(name, result, settings, console)
    return 0


def _checkpoint(args: argparse.Namespace) -> tuple[Checkpoint, str]:
    """What to measure, and its name."""
    if args.shape is None:
        for option in ("format", "save"):
            if getattr(args, option) is not None:
                msg = f"--{option} goes with --shape; a model has its own format"
                raise UsageError(msg)
        checkpoint = find_checkpoint(model_path(args))
        return checkpoint, checkpoint.config.name or checkpoint.path.name
    if args.model is not None:
        msg = "-m and --shape: give one of them"
        raise UsageError(msg)
    return synthetic_checkpoint(args.shape, args.format or _DEFAULT_FORMAT), args.shape


def _object(name: str, result: benchmark.Result, settings: benchmark.Settings) -> dict[str, object]:
    """The figures as one object; the keys are part of the public surface."""
    report: dict[str, object] = {
        "model": name,
        "device": result.device,
        "isa": result.isa,
        "threads": result.threads,
        "format": result.format,
        "weight_bytes": result.weight_bytes,
        "load_s": result.load_s,
        "peak_rss_bytes": result.peak_rss_bytes,
        "read_gb_s": result.read_bytes_s / 1e9,
        "prefill": {"tokens": settings.prompt, "tok_s": result.prefill_tok_s},
        "decode": {
            "context": settings.context,
            "batch": settings.batch,
            "tokens": settings.generate,
            "tok_s": result.decode_tok_s,
        },
    }
    for adapter in ("lora_rank", "llama_adapter"):
        if given := getattr(settings, adapter):
            report[adapter] = given
    if result.plain_tok_s:
        report["plain_tok_s"] = result.plain_tok_s
    if settings.profile:
        report["profile"] = result.profile
    return report


def _report(
    name: str, result: benchmark.Result, settings: benchmark.Settings, console: Console
) -> None:
    rows = {
        "model": f"{name}, {result.format}, {size(result.weight_bytes)} read per token",
        "ran on": f"{result.device}, {result.isa}"
        + (f", {plural(result.threads, 'thread')}" if result.device == "cpu" else ""),
        "loaded in": f"{duration(result.load_s)}, at most {size(result.peak_rss_bytes)} of memory",
        "memory": f"{result.read_bytes_s / 1e9:.1f} GB/s read",
    }
    if result.prefill_tok_s:
        rows["prompt"] = f"{_median(result.prefill_tok_s)}, {plural(settings.prompt, 'token')}"
    if result.decode_tok_s:
        speed = statistics.median(result.decode_tok_s)
        share = speed / settings.batch * result.weight_bytes / result.read_bytes_s
        rows["generation"] = (
            f"{_median(result.decode_tok_s)}, {plural(settings.batch, 'sequence')} with "
            f"{plural(settings.context, 'token')} in the cache; reads weights at {share:.0%} of "
            "the memory's speed"
        )
    if result.plain_tok_s:
        pairs = zip(result.decode_tok_s, result.plain_tok_s, strict=True)
        ratio = statistics.median(with_it / plain for with_it, plain in pairs)
        rows["adapter"] = f"{ratio:.1%} of the speed without it ({_median(result.plain_tok_s)})"
    console.table(rows)
    for phase, ops in result.profile.items():
        total = sum(ops.values()) or 1.0
        console.line(f"\n{phase}: {duration(total)}")
        for op, seconds in sorted(ops.items(), key=lambda item: -item[1]):
            console.line(f"  {op:<16} {seconds * 1000:10.2f} ms  {seconds / total:6.1%}")


def _median(figures: list[float]) -> str:
    if len(figures) == 1:
        return rate(figures[0])
    spread = " to ".join(
        rate(figure).removesuffix(" tok/s") for figure in (min(figures), max(figures))
    )
    return f"{rate(statistics.median(figures))} ({spread})"


def _save(checkpoint: Checkpoint, path: Path, console: Console) -> None:
    done = write_gguf(checkpoint, path, overwrite=True, progress=False if console.json else None)
    console.note(f"wrote {done.path}, {size(done.nbytes)}")
