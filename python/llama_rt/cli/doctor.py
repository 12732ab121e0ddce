"""`llama-rt doctor`: what llama_rt finds on this computer, and what is missing."""

from __future__ import annotations

import argparse
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version

from llama_rt import __version__, hardware
from llama_rt.cli.console import Console, plural, size
from llama_rt.cli.options import add_shared

NAME = "doctor"
USAGE = "[options]"
SUMMARY = "show ISA level, threads, bandwidth, GPU, versions"
EXAMPLES = """\
  llama-rt doctor
  llama-rt doctor --threads 1
  llama-rt doctor --json
"""

# What each optional package is for; a missing one is a fact, not a fault.
_PACKAGES = {
    "numpy": "arrays",
    "sentencepiece": "LLaMA 1 and 2 tokenizers",
    "regex": "Llama 3 and other byte-level tokenizers",
    "jinja2": "chat templates",
    "tqdm": "progress bars",
    "tokenizers": "unusual tokenizer.json files: pip install 'llama-rt[hf]'",
    "huggingface_hub": "org/name from the Hub: pip install 'llama-rt[hf]'",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    add_shared(parser, "threads", threads={"help": "threads that measure the bandwidth"})


def execute(args: argparse.Namespace, console: Console) -> int:
    """Looks at the hardware, and prints what it finds."""
    found = hardware.inspect()
    threads = args.threads or found.threads
    bandwidth = hardware.read_bandwidth(threads)
    if console.json:
        console.object(_object(found, threads, bandwidth))
        return 0
    quota = f"the container may use {found.quota:g} of them" if found.quota else "no quota"
    versions = [
        f"{name} {number or f'is not installed ({_PACKAGES[name]})'}"
        for name, number in _versions().items()
    ]
    rows = {
        "processor": found.processor,
        "ISA level": _isa_words(found),
        "threads": f"{threads} of {plural(found.cores, 'usable CPU')}; {quota}",
        "memory": f"{size(found.memory_available)} available of {size(found.memory_total)}",
        "bandwidth": f"{bandwidth / 1e9:.1f} GB/s read by {plural(threads, 'thread')}",
        "GPU": _gpu_words(found),
        "versions": "\n".join(
            [f"llama_rt {__version__}, Python {platform.python_version()}", *versions]
        ),
        "system": platform.platform(),
    }
    console.table(rows)
    return 0


def _isa_words(found: hardware.Hardware) -> str:
    lines = [f"{found.isa} (usable: {', '.join(found.tiers)})"]
    lines += [f"{name} is not used: {reason}" for name, reason in found.unused_tiers.items()]
    if found.missing_levels:
        lines.append("install from source on this machine, or a wheel, to have them all")
    return "\n".join(lines)


def _gpu_words(found: hardware.Hardware) -> str:
    lines = [] if found.cuda is None else [f"not used: {found.cuda}"]
    for i, gpu in enumerate(found.gpus):
        state = "can be used" if gpu.reason is None else f"cannot be used: {gpu.reason}"
        lines.append(
            f"cuda:{i}: {gpu.name} (compute capability {gpu.capability}), "
            f"{size(gpu.memory_free)} free of {size(gpu.memory_total)}, "
            f"{gpu.bandwidth / 1e9:.0f} GB/s by its clock; {state}"
        )
    return "\n".join(lines)


def _versions() -> dict[str, str | None]:
    """Installed versions; None for what is not there."""
    found: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _object(found: hardware.Hardware, threads: int, bandwidth: float) -> dict[str, object]:
    return {
        "processor": found.processor,
        "isa": found.isa,
        "tiers": list(found.tiers),
        "unused_tiers": dict(found.unused_tiers),
        "threads": threads,
        "cores": found.cores,
        "quota": found.quota,
        "memory_bytes": found.memory_total,
        "memory_available_bytes": found.memory_available,
        "read_gb_s": bandwidth / 1e9,
        "cuda": {
            "available": found.cuda is None,
            "reason": found.cuda,
            "devices": [asdict(gpu) for gpu in found.gpus],
        },
        "versions": {
            "llama_rt": __version__,
            "python": platform.python_version(),
            **_versions(),
        },
        "system": platform.platform(),
    }
