"""What quantizing costs in KL divergence and perplexity: rounding and kernels, against llama.cpp.

For each format the model is written twice, by `llama-rt convert` and by llama.cpp's quantizer. All
runs see the same tokens. Two comparisons come out of it:

* rounding: the exact model against the decoded weights of either file, both in float32 here;
* kernels: the decoded weights of our file in float32 against the same file on each engine's fast
  path, reading a prompt at once and token by token.

    python benchmarks/quality.py heldout.txt --formats q4_0,q4_k_m --tokens 2048
"""

from __future__ import annotations

import argparse
import ctypes
import lzma
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llama_rt import _native
from llama_rt.api.weights import build_model
from llama_rt.checkpoint import open_checkpoint
from llama_rt.convert import convert
from llama_rt.convert.recipes import main_type, stored_file_type
from llama_rt.tokenizer import load_tokenizer

Logits = npt.NDArray[np.float64]
Windows = list[npt.NDArray[np.int32]]

BUILT_IN = Path(__file__).parents[1] / "python" / "llama_rt" / "data" / "tales.gguf"


@dataclass(frozen=True)
class Text:
    """Held-out tokens in windows of a context."""

    windows: Windows
    vocabulary: int


def log_softmax(logits: npt.NDArray[np.float32]) -> Logits:
    """Over the last axis, in float64."""
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(-1, keepdims=True))


def ours(model: Path, text: Text, *, isa: str = "", step: int = 512, exact: bool = False) -> Logits:
    """Log-probabilities `[tokens, v]` of this project; `step` tokens of each window at once."""
    backend = _native.open_backend("cpu", isa=isa or None)
    built = build_model(
        open_checkpoint(model), backend, quantize=None, repack="auto", progress=False
    )
    runner = _native.Runner(built, n_ctx=len(text.windows[0]), kv_dtype="f32" if exact else "f16")
    sequence, found = runner.create(), []
    for window in text.windows:
        runner.truncate(sequence, 0)
        for first in range(0, len(window), step):
            found.append(runner.forward([sequence], [window[first : first + step]], outputs="all"))
    return log_softmax(np.concatenate(found))


def theirs(model: Path, text: Text, *, step: int = 512) -> Logits:
    """The same from llama.cpp."""
    import llama_cpp

    llm = llama_cpp.Llama(
        str(model), n_ctx=len(text.windows[0]), n_batch=512, n_ubatch=512, logits_all=True,
        verbose=False, n_threads=_native.cpu_info().default_threads,
    )  # fmt: skip
    found = []
    for window in text.windows:
        llm.reset()
        for first in range(0, len(window), step):
            llm.eval(window[first : first + step].tolist())
        found.append(log_softmax(np.array(llm.scores[: len(window)], np.float32)))
    return np.concatenate(found)


def llama_cpp_quantize(source: Path, target: Path, format: str) -> None:
    """llama.cpp's file of a format; of a plain type, all matrices in it."""
    import llama_cpp

    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = stored_file_type(format)
    options.pure = format == main_type(format)
    options.nthread = _native.cpu_info().default_threads
    paths = (str(source).encode(), str(target).encode())
    if llama_cpp.llama_model_quantize(*paths, ctypes.byref(options)):
        sys.exit(f"llama.cpp does not write {format}")


def divergence(exact: Logits, found: Logits) -> float:
    """Mean KL divergence in nats of the second from the first."""
    return float((np.exp(exact) * (exact - found)).sum(-1).mean())


def perplexity(found: Logits, text: Text) -> float:
    """Of each token after the first of its window."""
    rows = found.reshape(len(text.windows), -1, text.vocabulary)
    losses = [
        -row[np.arange(len(window) - 1), window[1:]]
        for row, window in zip(rows, text.windows, strict=True)
    ]
    return float(np.exp(np.mean(losses)))


def measure(
    exact_file: Path, format: str, exact: Logits, text: Text, folder: Path, levels: list[str]
) -> list[str]:
    """The table's lines of one format."""
    mine, other, plain = folder / "ours.gguf", folder / "theirs.gguf", folder / "plain.gguf"
    convert(exact_file, mine, format, overwrite=True, progress=False)
    llama_cpp_quantize(exact_file, other, format)

    def decoded(file: Path) -> Logits:
        convert(file, plain, "f32", overwrite=True, progress=False)
        return ours(plain, text, exact=True)

    floats, floats_of_theirs = decoded(mine), decoded(other)
    rounding = [divergence(exact, found) for found in (floats, floats_of_theirs)]
    base = perplexity(floats, text)
    lines = []
    paths = [(isa, step) for isa in levels for step in (512, 1)]
    peers = {step: theirs(mine, text, step=step) for step in (512, 1)}
    for isa, step in paths:
        fast, peer = ours(mine, text, isa=isa, step=step), peers[step]
        kernels = [divergence(floats, found) for found in (fast, peer)]
        drift = perplexity(fast, text) / base - 1
        peer_drift = perplexity(peer, text) / base - 1
        lines.append(
            f"| {format} | {rounding[0]:.2e} / {rounding[1]:.2e} | {isa}, "
            f"{'prompt' if step > 1 else 'token by token'} | {kernels[0]:.2e} / {kernels[1]:.2e} | "
            f"{100 * drift:+.3f} % / {100 * peer_drift:+.3f} % |"
        )
    return lines


def read_text(path: Path, model: Path, tokens: int, context: int) -> Text:
    """The beginning of a text file (`.xz` or plain) in the model's tokens."""
    raw = path.read_bytes()
    raw = lzma.decompress(raw) if path.suffix == ".xz" else raw
    checkpoint = open_checkpoint(model)
    tokenizer = load_tokenizer(checkpoint.tokenizer_source, checkpoint.metadata, checkpoint.kind)
    ids = np.array(tokenizer.encode(raw.decode()[: tokens * 12]), np.int32)
    windows = [ids[i : i + context] for i in range(0, tokens - context + 1, context)]
    if not windows or len(windows[-1]) < context:
        sys.exit(f"{path} has {len(ids)} tokens, {tokens} were asked for")
    return Text(windows, checkpoint.config.vocab_size)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("text", type=Path, help="held-out text, .xz or plain")
    parser.add_argument("--model", type=Path, default=BUILT_IN)
    parser.add_argument("--formats", default="q8_0,q4_0,q4_1,q5_0,q5_1,q2_k,q3_k,q4_k,q5_k,q6_k")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument(
        "--isa", default=_native.cpu_info().levels[-1], help="ISA levels, by commas"
    )
    return parser.parse_args()


def main() -> None:
    """Makes the files, measures, prints the table."""
    args = arguments()
    text = read_text(args.text, args.model, args.tokens, args.context)
    levels = args.isa.split(",")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        exact_file = convert(args.model, folder / "exact.gguf", "f32", progress=False).path
        exact = ours(exact_file, text, exact=True)
        print(f"float32: perplexity {perplexity(exact, text):.4f}")
        print("| format | KL of rounding | fast path | KL of kernels | perplexity |")
        print("|---|---|---|---|---|")
        for format in args.formats.split(","):
            print("\n".join(measure(exact_file, format, exact, text, folder, levels)), flush=True)


if __name__ == "__main__":
    main()
