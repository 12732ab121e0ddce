"""The real vocabularies in our tokenizer and in an independent library, side by side.

Byte-level ones in `tokenizers`, in a pipeline written here from the models' own documents; LLaMA's
and Mistral's in `sentencepiece`. No code of llama_rt makes an oracle.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

from llama_rt.formats.gguf import read_gguf
from llama_rt.tokenizer import Tokenizer, load_tokenizer
from support.real_models import real_file

__all__ = ["REAL", "Oracle", "real_pair"]

Oracle = Callable[[str], list[int]]
REAL = ("llama", "llama3", "smollm2", "mistral-v3", "tekken")
LLAMA = Path(__file__).resolve().parents[2].parent / "shared/reference/llama_tokenizer.model"

# meta-llama/llama3, llama/tokenizer.py; mistralai/mistral-common, tekken_240911.json "pattern".
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def real_pair(name: str) -> tuple[Tokenizer, Oracle]:
    """Our tokenizer of a real vocabulary, and an independent one for ordinary text without BOS."""
    if name in ("llama", "mistral-v3"):
        return _sentencepiece(LLAMA if name == "llama" else real_file(name))
    file = real_file(name)
    if name == "smollm2":
        return _smollm2(file)
    if name == "tekken":
        return _tekken(file)
    ranks = [base64.b64decode(line.split()[0]) for line in file.read_bytes().splitlines()]
    return load_tokenizer(file, {}, "meta", file), _ranks(ranks, _LLAMA3, 0)


def _sentencepiece(file: Path) -> tuple[Tokenizer, Oracle]:
    import pytest
    import sentencepiece

    if not file.is_file():
        pytest.skip("LLaMA's own tokenizer is not on this machine")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(file))
    return load_tokenizer(file, {}, "hf", file), processor.encode


def _smollm2(file: Path) -> tuple[Tokenizer, Oracle]:
    """SmolLM2's GGUF against the steps of its published `tokenizer.json`: digits, then GPT-2's."""
    from tokenizers import Tokenizer as Library
    from tokenizers import models
    from tokenizers import pre_tokenizers as p

    keys = read_gguf(file).metadata
    texts: list[str] = keys["tokenizer.ggml.tokens"]  # type: ignore[assignment]
    merges = [tuple(m.split(" ")) for m in keys["tokenizer.ggml.merges"]]  # type: ignore[attr-defined]
    library = Library(models.BPE(vocab={t: i for i, t in enumerate(texts)}, merges=merges))
    steps = [p.Digits(individual_digits=True), p.ByteLevel(add_prefix_space=False)]
    library.pre_tokenizer = p.Sequence(steps)
    ours = load_tokenizer(file, keys, "gguf")
    return ours, lambda text: library.encode(text, add_special_tokens=False).ids


def _tekken(file: Path) -> tuple[Tokenizer, Oracle]:
    document = json.loads(file.read_text())
    config = document["config"]
    first = config["default_num_special_tokens"]
    count = config["default_vocab_size"] - first
    ranks = [base64.b64decode(row["token_bytes"]) for row in document["vocab"][:count]]
    return load_tokenizer(file, {}, "hf", file), _ranks(ranks, config["pattern"], first)


def _ranks(ranks: list[bytes], pattern: str, first: int) -> Oracle:
    """A vocabulary of ranks in `tokenizers`, as transformers converts it (all cuts are merges)."""
    from tokenizers import Regex, models
    from tokenizers import Tokenizer as Library
    from tokenizers import pre_tokenizers as p

    alphabet = _alphabet()
    texts = {token: "".join(alphabet[byte] for byte in token) for token in ranks}
    known = {token: rank for rank, token in enumerate(ranks)}
    merges = []
    for token in ranks:
        cuts = [(token[:at], token[at:]) for at in range(1, len(token))]
        pairs = [(known[a], known[b], a, b) for a, b in cuts if a in known and b in known]
        merges += [(texts[a], texts[b]) for _, _, a, b in sorted(pairs)]
    vocab = {texts[token]: rank for token, rank in known.items()}
    library = Library(models.BPE(vocab=vocab, merges=merges, ignore_merges=True))
    split = p.Split(Regex(pattern), "isolated")
    library.pre_tokenizer = p.Sequence(
        [split, p.ByteLevel(add_prefix_space=False, use_regex=False)]
    )

    def encode(text: str) -> list[int]:
        return [id + first for id in library.encode(text, add_special_tokens=False).ids]

    return encode


def _alphabet() -> dict[int, str]:
    """GPT-2's: printable bytes are themselves, the others follow from U+0100 on, in order."""
    from tokenizers import pre_tokenizers as p

    given = set(p.ByteLevel.alphabet())
    printable = [byte for byte in range(256) if chr(byte) in given]
    others = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(byte) for byte in printable}
    return table | dict(zip(others, sorted(given - set(table.values())), strict=True))
