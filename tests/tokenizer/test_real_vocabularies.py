"""Real vocabularies against `tokenizers` and `sentencepiece`, on random texts.

The large run, of 20,000 texts each: `python tests/tokenizer/test_real_vocabularies.py`.
"""

from __future__ import annotations

import random
import sys
import time

import pytest

from llama_rt.tokenizer import Tokenizer
from support.fuzz_texts import fuzz_text
from support.oracles import REAL, Oracle, real_pair

TEXTS = 300


def differences(ours: Tokenizer, oracle: Oracle, texts: int, seed: int) -> list[str]:
    """Texts that the two encode to other ids."""
    rng = random.Random(seed)
    found = []
    for _ in range(texts):
        text = fuzz_text(rng)
        if ours.encode(text, bos=False) != oracle(text):
            found.append(text)
    return found


@pytest.mark.parametrize("name", REAL)
def test_agrees_with_an_independent_library(name):
    if name != "llama":
        pytest.importorskip("tokenizers")
    ours, oracle = real_pair(name)
    assert differences(ours, oracle, TEXTS, seed=1) == []


def test_byte_level_round_trip():
    ours, _ = real_pair("smollm2")
    rng = random.Random(2)
    for _ in range(TEXTS):
        text = fuzz_text(rng)
        assert ours.decode(ours.encode(text, bos=False)) == text


def main() -> None:
    """Compares 20,000 texts of each vocabulary, or as many as the first argument says."""
    texts = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    failed = False
    for name in REAL:
        began = time.perf_counter()
        found = differences(*real_pair(name), texts, seed=7)
        failed = failed or bool(found)
        spent = time.perf_counter() - began
        sys.stdout.write(f"{name}: {len(found)} of {texts} texts differ ({spent:.0f} s)\n")
        sys.stdout.writelines(f"  {text!r}\n" for text in found[:3])
    sys.exit(failed)


if __name__ == "__main__":
    main()
