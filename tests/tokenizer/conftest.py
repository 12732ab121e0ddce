"""Vocabularies that the tokenizer tests make for themselves."""

import json
from pathlib import Path

import pytest
import sentencepiece

from llama_rt.tokenizer.sentencepiece.spm_model import PieceKind

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
REAL_MODEL = SHARED / "reference" / "llama_tokenizer.model"


@pytest.fixture(scope="session")
def real_model_file() -> Path:
    if not REAL_MODEL.is_file():
        pytest.skip("LLaMA's own tokenizer is not on this machine")
    return REAL_MODEL


def gguf_metadata(model_file: Path, extra=(), **overrides) -> dict:
    """The keys llama.cpp's converter writes for a sentencepiece model, plus `extra` rows."""
    sp = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    rows = []
    for id in range(sp.get_piece_size()):
        kind = PieceKind.NORMAL
        if sp.is_unknown(id):
            kind = PieceKind.UNKNOWN
        elif sp.is_control(id):
            kind = PieceKind.CONTROL
        elif sp.is_byte(id):
            kind = PieceKind.BYTE
        elif sp.is_unused(id):
            kind = PieceKind.UNUSED
        rows.append((sp.id_to_piece(id), sp.get_score(id), int(kind)))
    rows += [(text, score, int(kind)) for text, score, kind in extra]
    return {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [row[0] for row in rows],
        "tokenizer.ggml.scores": [row[1] for row in rows],
        "tokenizer.ggml.token_type": [row[2] for row in rows],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        **{f"tokenizer.ggml.{key}": value for key, value in overrides.items()},
    }


BPE_TOKENS = 440
CORPUS = [
    "The quick brown fox jumps over the lazy dog, and it's 12345 times they'll do so again.",
    "Once upon a time there was a llama who lived in the mountains; its wool was soft.",
    "def main(argument: int) -> str:\n    return f'{argument:08x}'\n\n\n",
    "naïve café — “quotes” 日本語テキスト 🦙🚀 привет мир ελληνικά",
    "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n",
] * 20


@pytest.fixture(scope="session")
def bpe_library():
    """A byte-level BPE in Llama 3's form, trained here: 440 tokens and 256 special ones."""
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    from llama_rt.tokenizer.bpe.bpe_ranks import special_texts
    from llama_rt.tokenizer.bpe.pre_tokenizers import LLAMA3

    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(LLAMA3), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=BPE_TOKENS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    assert tokenizer.get_vocab_size() == BPE_TOKENS
    tokenizer.add_special_tokens(special_texts(newer=True))
    begin = "<|begin_of_text|>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))]
    )
    return tokenizer


@pytest.fixture(scope="session")
def bpe_folder(bpe_library, tmp_path_factory) -> Path:
    """`tokenizer.json` and the files next to it, as Llama 3.1 instruct is published."""
    folder = tmp_path_factory.mktemp("bpe")
    bpe_library.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    base = bpe_library.get_vocab_size(with_added_tokens=False)
    ends = {"eos_token_id": [base + 1, base + 8, base + 9]}
    (folder / "generation_config.json").write_text(json.dumps(ends))
    return folder
