"""Held-out loss of the built-in model, in bits per character."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from tales_data import Corpus, load_corpus
from tales_model import load_model


def strided_windows(length: int, context: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Windows that predict each token of a story exactly once.

    Args:
        length: tokens of the story, its BOS included; token 0 is never predicted.
        context: inputs per window at most.
        stride: targets that a window adds after the first; a later target sees at least
            ``context - stride`` tokens before it.

    Yields:
        ``(begin, end, first)``: inputs ``begin..end - 1`` predict tokens ``begin + 1..end``, of
        which those from ``first`` on are counted.
    """
    done = 1
    begin = 0
    while done < length:
        end = min(begin + context, length - 1)
        yield begin, end, done
        done = end + 1
        begin += stride


def bits_per_character(nats: float, characters: int) -> float:
    """Total negative log-likelihood in nats over a text to bits per character."""
    return nats / math.log(2) / characters


@torch.no_grad()
def heldout_nats(
    logits: Callable[[torch.Tensor], torch.Tensor],
    corpus: Corpus,
    context: int,
    stride: int,
    batch: int = 8,
    max_stories: int | None = None,
) -> tuple[float, int]:
    """Loss over all tokens of all stories after BOS, EOS included.

    Args:
        logits: maps int64 ids ``[batch, tokens]`` to ``[batch, tokens, vocab]``.
        corpus: the encoded stories; a story never sees another.
        context: inputs per window at most.
        stride: see :func:`strided_windows`.
        batch: windows at once.
        max_stories: use only the first so many stories.

    Returns:
        Sum of -ln p over the targets (nats), and the number of targets.
    """
    jobs: list[tuple[npt.NDArray[np.uint16], int]] = []
    for index, ids in enumerate(corpus.stories()):
        if max_stories is not None and index >= max_stories:
            break
        for begin, end, first in strided_windows(len(ids), context, stride):
            jobs.append((ids[begin : end + 1], first - begin))
    jobs.sort(key=lambda job: len(job[0]))
    total, count = 0.0, 0
    for at in range(0, len(jobs), batch):
        part = jobs[at : at + batch]
        width = max(len(ids) for ids, _ in part)
        tokens = np.zeros((len(part), width), dtype=np.int64)
        counted = np.zeros((len(part), width - 1), dtype=bool)
        for row, (ids, first) in enumerate(part):
            tokens[row, : len(ids)] = ids
            counted[row, first - 1 : len(ids) - 1] = True
        table = torch.from_numpy(tokens)
        out = logits(table[:, :-1]).float()
        loss = F.cross_entropy(out.flatten(0, 1), table[:, 1:].flatten(), reduction="none")
        total += float(loss[torch.from_numpy(counted).flatten()].double().sum())
        count += int(counted.sum())
    return total, count


def engine_logits(path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    """This project's engine as a logits function: row by row, whatever file it can load."""
    from llama_rt import Llama

    llm = Llama.load(path, progress=False)

    def logits(ids: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.from_numpy(llm.logits(row)) for row in ids.tolist()])

    return logits


def main() -> None:
    """Print the held-out bits per character of a checkpoint or of a file for the engine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="checkpoint (.pt), or a GGUF or folder")
    parser.add_argument("--data", type=Path, required=True, help="folder of tales_data.py")
    parser.add_argument("--stride", type=int, default=256)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    trained = args.model.suffix == ".pt"
    logits = load_model(args.model).eval() if trained else engine_logits(args.model)
    corpus = load_corpus(args.data / "heldout.npz")
    nats, count = heldout_nats(logits, corpus, args.context, args.stride)
    bits = bits_per_character(nats, corpus.characters)
    print(
        f"{bits:.4f} bits/character, {nats / count:.4f} nats/token, {count} tokens, "
        f"context {args.context}, stride {args.stride}"
    )


if __name__ == "__main__":
    main()
