"""Models for the tests of generation: a tiny one, and one that takes a while."""

import itertools

import pytest

from llama_rt import Llama
from reference.checkpoints import write_gguf
from reference.model import Config, random_weights


@pytest.fixture(scope="module")
def llm(tiny_hf_folder):
    """The tiny model: 512 tokens, context 256."""
    with Llama.load(tiny_hf_folder, threads=1, reproducible=True) as model:
        yield model


@pytest.fixture(scope="session")
def slow_file(tmp_path_factory, tiny_tokenizer_file):
    """A model whose full context (4096 tokens) takes seconds to read."""
    config = Config(dim=256, n_layers=6, n_heads=4, head_dim=64, ffn_dim=768, max_context=4096)
    path = tmp_path_factory.mktemp("slow") / "slow.gguf"
    return write_gguf(
        path, config, random_weights(config, seed=2), dtype="f16", tokenizer=tiny_tokenizer_file
    )


@pytest.fixture(scope="module")
def slow(slow_file):
    """The slow model, on one thread, loaded."""
    with Llama.load(slow_file, threads=1, reproducible=True) as model:
        yield model


_numbers = itertools.count(20)


@pytest.fixture
def long_prompt():
    """4000 ids that begin as no other test's do, so that nothing of them is in a cache."""
    return [next(_numbers), *(3 + (i * i + 7 * i) % 500 for i in range(3999))]
