"""Prints, of each model, a digest of its logits at one ISA level: equal lines mean equal bits.

`python .ci/level_bits.py LEVEL`: the built-in model and, where they are next to the checkout, the
shared golden GGUF files. Levels that sum the same whole numbers and round floats at the same places
agree in every bit, on any processor. Fails where the level cannot be used.
"""

import hashlib
import sys
from pathlib import Path

import numpy as np

from llama_rt import Llama

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "golden"
BUILT_IN_IDS = list(range(3, 40))


def main(level: str) -> None:
    """Prints a line for each model: a prompt's logits, and those of a token alone."""
    cases = [("built-in", None, BUILT_IN_IDS)]
    for path in sorted(SHARED.glob("gguf/*.gguf")):
        with np.load(path.with_suffix(".npz")) as expected:
            cases.append((path.stem, path, expected["ids"].tolist()))
    for name, path, ids in cases:
        with Llama.load(path, isa=level, progress=False) as llm:
            if llm.isa != level:
                msg = f"{level} cannot be used here"
                raise SystemExit(msg)
            digests = []
            for count in (len(ids), 1):
                logits = llm.logits(ids[:count])
                digests.append(hashlib.sha256(logits.tobytes()).hexdigest()[:16])
        print(name, *digests, sep="\t")


if __name__ == "__main__":
    main(sys.argv[1])
