"""Does the model write or recite? The longest runs of words that its tales share with the corpus.

python tools/recitation.py --corpus tales.txt.xz --tales run/samples.txt
python tools/recitation.py --corpus tales.txt.xz --count 20      # samples the built-in model
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tales_data import read_stories

_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)*")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def words(text: str) -> list[str]:
    """Lower-case words without punctuation, in order."""
    return _WORD.findall(text.lower())


def _hashes(codes: npt.NDArray[np.uint64]) -> Iterator[npt.NDArray[np.uint64]]:
    """Hashes of all runs of 1, 2, 3, ... words (mod 2^64)."""
    run = codes
    while len(run):
        yield run
        run = run[:-1] * _MULTIPLIER + codes[len(codes) - len(run) + 1 :]


def longest_runs(tales: Sequence[str], corpus: Sequence[str]) -> list[tuple[int, str]]:
    """For each tale its longest run of words that occurs within one story of the corpus.

    Args:
        tales: texts to check.
        corpus: stories.

    Returns:
        (words, the run) per tale; (0, "") when not a word is shared.
    """
    table: dict[str, int] = {}
    rng = np.random.default_rng(0)
    corpus_words: list[int] = []
    boundary = -1  # a code of its own at each story's end, so that no run crosses it
    for story in corpus:
        corpus_words.extend(table.setdefault(word, len(table)) for word in words(story))
        corpus_words.append(boundary)
        boundary -= 1
    tale_words = [words(tale) for tale in tales]
    for tale in tale_words:
        for word in tale:
            table.setdefault(word, len(table))
    codes = rng.integers(1, 2**63, size=len(table) - boundary, dtype=np.uint64)
    target = codes[np.array(corpus_words)]
    best = [(0, "")] * len(tales)
    alive = {i: _hashes(codes[[table[w] for w in tale]]) for i, tale in enumerate(tale_words)}
    for length, corpus_hashes in enumerate(_hashes(target), start=1):
        runs = {i: run for i, h in alive.items() if (run := next(h, None)) is not None}
        if not runs:
            break
        wanted = np.unique(np.concatenate(list(runs.values())))
        places = np.searchsorted(wanted, corpus_hashes)
        places[places == len(wanted)] = 0
        shared = np.unique(corpus_hashes[wanted[places] == corpus_hashes])
        for i, run in runs.items():
            hits = np.flatnonzero(np.isin(run, shared))
            if len(hits):
                best[i] = (length, " ".join(tale_words[i][hits[0] : hits[0] + length]))
            else:
                del alive[i]
        alive = {i: h for i, h in alive.items() if i in runs}
    return best


def sample_builtin(count: int, prompt: str) -> list[str]:
    """Tales of the built-in model at its default sampling, seeds 0, 1, ..."""
    from llama_rt import Llama

    with Llama.load() as llm:
        return [prompt + llm.generate(prompt, seed=seed).text for seed in range(count)]


def main() -> None:
    """Print each tale's longest shared run, the median and the longest."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--tales", type=Path, help="sampled tales, separated as in the corpus")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--prompt", default="Once upon a time")
    args = parser.parse_args()
    tales = read_stories(args.tales) if args.tales else sample_builtin(args.count, args.prompt)
    found = longest_runs(tales, read_stories(args.corpus))
    for (length, run), tale in zip(found, tales, strict=True):
        print(f"{length:3d} of {len(words(tale))} words: {run}")
    lengths = [length for length, _ in found]
    print(f"median {statistics.median(lengths):g}, longest {max(lengths)} words")


if __name__ == "__main__":
    main()
