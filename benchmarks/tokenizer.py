"""Encoding speed against `tokenizers` and `sentencepiece`, in one run on one core.

    PYTHONPATH=tests python benchmarks/tokenizer.py [--size 100000] [--rounds 15]

Prose, code and Chinese text of about 100,000 characters each, encoded whole by each vocabulary of
`tests/support/real_models.py`; best of the rounds, which alternate, so that both see the same
machine. A ratio above 1 says that ours is faster. Ids are compared first.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

from support.oracles import REAL, real_pair

ROOT = Path(__file__).resolve().parents[1]


def texts(size: int) -> dict[str, str]:
    """Prose and code of this repository, and Chinese made of its commonest characters."""
    prose = "".join(file.read_text() for file in sorted(ROOT.glob("**/*.md")))
    code = "".join(file.read_text() for file in sorted(ROOT.glob("python/llama_rt/**/*.py")))
    common = "的一是不了人我在有他这中大来上个国到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后小么心多天而能好都然没日于起还发成事只作当想看文无开手十用主行方又如前所本见经头面公同三已老从动两长"  # noqa: E501
    chinese = "".join(
        common[i * i * 31 % len(common)] + ("，" if i % 11 == 0 else "。\n" if i % 37 == 0 else "")  # noqa: RUF001
        for i in range(size)
    )
    return {name: text[:size] for name, text in
            (("prose", prose), ("code", code), ("chinese", chinese))}  # fmt: skip


def best(encoders: list[Callable[[str], object]], text: str, rounds: int) -> list[float]:
    """Processor seconds of each encoder, which other programs disturb least."""
    found = [float("inf")] * len(encoders)
    for _ in range(rounds):
        for index, encode in enumerate(encoders):
            began = time.thread_time()
            encode(text)
            found[index] = min(found[index], time.thread_time() - began)
    return found


def main() -> None:
    """Prints a line per vocabulary and text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    os.environ["RAYON_NUM_THREADS"] = "1"
    for name in REAL:
        ours, oracle = real_pair(name)
        for kind, text in texts(args.size).items():
            same = ours.encode(text, bos=False) == oracle(text)
            mine, theirs = best([ours.encode, oracle], text, args.rounds)
            megabytes = len(text.encode()) / 1e6
            print(
                f"{name:11} {kind:8} {megabytes / mine:6.2f} MB/s, library "
                f"{megabytes / theirs:6.2f} MB/s, ratio {theirs / mine:5.2f}"
                + ("" if same else "  IDS DIFFER")
            )


if __name__ == "__main__":
    main()
