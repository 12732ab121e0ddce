"""One golden case as files, for a Python that has the package's own dependencies alone.

`make FOLDER` writes it by the recipes of the tests; `check FOLDER` computes it on the processor
that it finds and compares.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

CASE = "gguf-q4_0"


def make(folder: Path) -> None:
    """Writes checkpoint, ids and float64 logits."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from golden.make_golden import CASES
    from reference.vocabulary import train_tokenizer

    case = CASES[CASE].make(folder / CASE, train_tokenizer(folder))
    path = case.path.relative_to(folder)
    np.savez(folder / "case.npz", path=str(path), ids=case.ids, logits=case.logits, b=case.bound)


def check(folder: Path) -> str:
    """Says how far the logits are from float64's; raises where it is too far."""
    from llama_rt import Llama

    with np.load(folder / "case.npz") as case:
        path, ids, expected, bound = (case[name] for name in ("path", "ids", "logits", "b"))
    with Llama.load(folder / str(path), progress=False) as llm:
        got = llm.logits(ids.tolist())
    error = float(np.linalg.norm(got - expected) / np.linalg.norm(expected))
    if not error <= bound:
        msg = f"{CASE}: relative error {error:.2e}, allowed are {bound:.2e}"
        raise AssertionError(msg)
    return f"{CASE}: relative error {error:.2e}"


if __name__ == "__main__":
    command, where = sys.argv[1], Path(sys.argv[2])
    where.mkdir(parents=True, exist_ok=True)
    if command == "make":
        make(where)
    else:
        print(check(where))
