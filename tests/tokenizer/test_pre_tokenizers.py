"""Splits by their GGUF names against `tokenizers`, and patterns from files.

Where a model's published steps are known they are written here as such; the others run the same
patterns in the library's matcher, which is another one than ours.
"""

from __future__ import annotations

import random
import re
import time

import pytest

from llama_rt.errors import TokenizerError
from llama_rt.tokenizer.bpe.pre_tokenizers import PRE_TOKENIZERS, name_of, pre_tokenizer_named
from llama_rt.tokenizer.bpe.splitter import Splitter
from support.fuzz_texts import fuzz_text

p = pytest.importorskip("tokenizers.pre_tokenizers")
from tokenizers import Regex  # noqa: E402

TEXTS = 150
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
KIMI = (
    r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def isolated(*patterns):
    return [p.Split(Regex(pattern), "isolated") for pattern in patterns]


def gpt2():
    return [p.ByteLevel(add_prefix_space=False)]


def digits():
    return [p.Digits(individual_digits=True)]


# Steps as the models publish them.
PUBLISHED = {
    "gpt-2": gpt2,
    "olmo": gpt2,
    "smollm": lambda: [*digits(), *gpt2()],
    "starcoder": lambda: [*digits(), *gpt2()],
    "command-r": lambda: [*digits(), *gpt2()],
    "llama-bpe": lambda: isolated(LLAMA3),
    "dbrx": lambda: isolated(LLAMA3),
    "qwen2": lambda: isolated(LLAMA3.replace("{1,3}", "")),
    "gpt-4o": lambda: isolated(O200K),
    "llama4": lambda: isolated(O200K),
    "kimi-k2": lambda: isolated(KIMI),
    "tekken": lambda: isolated(
        O200K.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace("{1,3}", "")
    ),
    "deepseek-coder": lambda: [
        *isolated("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥\u0800-一가-\ud7ff]+"),
        *digits(),
    ],
    "deepseek-v3": lambda: isolated(
        r"\p{N}{1,3}",
        "[一-龥\u3040-ゟ\u30a0-ヿ]+",
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?"
        "[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
    ),
}


def library_words(steps, text):
    """Words by their offsets: some steps return them in the byte alphabet."""
    words = [text[start:end] for _, (start, end) in p.Sequence(steps).pre_tokenize_str(text)]
    return [word for word in words if word]


@pytest.mark.parametrize("name", sorted(PRE_TOKENIZERS.keys()))
def test_splits_as_the_library_does(name):
    split = PRE_TOKENIZERS[name]
    first = name_of(split)
    if name not in PUBLISHED and name != first:
        assert PRE_TOKENIZERS[first] == split  # tested under its first name
        return
    steps = PUBLISHED[name]() if name in PUBLISHED else isolated(*split.patterns)
    ours = Splitter(split.patterns, name)
    rng = random.Random(name)
    for _ in range(TEXTS):
        text = fuzz_text(rng)
        assert ours.split(text) == library_words(steps, text)


def test_groups_of_digits_from_the_right():
    assert Splitter(PRE_TOKENIZERS["superbpe"].patterns, "x").split("a1234567 b") == [
        *("a", "1", "234", "567", " b")
    ]
    assert Splitter(PRE_TOKENIZERS["afmoe"].patterns, "x").split("1234567") == ["1", "234", "567"]


def test_an_unknown_name_lists_the_known():
    with pytest.raises(TokenizerError, match=r"m\.gguf: tokenizer\.ggml\.pre: 'new-one' .*smollm"):
        pre_tokenizer_named("new-one", "m.gguf")


def test_a_pattern_that_never_ends_is_bounded():
    splitter = Splitter([r"(?:a|a|aa)+$(?<=b)|(?:(?:a+)+)+b"], "tokenizer.json")
    began = time.perf_counter()
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: pre-tokenizer: .* takes more than"):
        splitter.split("a" * 400 + "c")
    assert time.perf_counter() - began < 20


def test_a_malformed_pattern_is_named():
    with pytest.raises(TokenizerError, match=re.escape("'(a' is malformed")):
        Splitter(["(a"], "tokenizer.json")
