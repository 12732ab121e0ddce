"""Fixtures for every folder: one tiny model, its tokenizer, and its checkpoint in each format.

All folders and files hold the same weights (exact in half precision), so their logits may be
compared with each other and with `reference.model.forward(*tiny_model, ids)`. They are made once a
session, by the libraries that users' checkpoints come from; treat them as read-only.
"""

from pathlib import Path

import pytest

from reference.checkpoints import write_gguf, write_hf, write_meta
from reference.model import Config, random_weights
from reference.vocabulary import train_tokenizer

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


def pytest_addoption(parser):
    parser.addoption(
        "--levels",
        metavar="FILE",
        type=Path,
        help="add a line to FILE for each ISA level that tests emulate; .ci/levels.py prints it",
    )
    parser.addoption(
        "--every",
        metavar="N",
        type=int,
        default=1,
        help="run every N-th of the selected tests, for emulators on which all take too long",
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    every = config.getoption("--every")
    if every > 1:
        config.hook.pytest_deselected(items=[x for i, x in enumerate(items) if i % every])
        items[:] = items[::every]


@pytest.fixture
def record_level(request):
    """`record_level(architecture, level, how, result)` adds a line to the file of `--levels`."""
    path = request.config.getoption("--levels")

    def record(*fields):
        if path is not None:
            with path.open("a", encoding="utf-8") as file:
                file.write("\t".join(fields) + "\n")

    return record


@pytest.fixture(scope="session")
def tiny_model():
    """`(Config, weights)` under canonical names: 2 layers of width 64, 512 tokens, context 256."""
    config = Config()
    return config, random_weights(config, seed=1)


@pytest.fixture(scope="session")
def tiny_tokenizer_file(tmp_path_factory) -> Path:
    """A sentencepiece `tokenizer.model` of 512 pieces with byte fallback."""
    return train_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def tiny_hf_folder(tmp_path_factory, tiny_model, tiny_tokenizer_file) -> Path:
    """A Hugging Face folder: `config.json`, float32 safetensors, `tokenizer.model`."""
    folder = tmp_path_factory.mktemp("hf") / "tiny-hf"
    return write_hf(folder, *tiny_model, tokenizer=tiny_tokenizer_file)


@pytest.fixture(scope="session")
def tiny_meta_folder(tmp_path_factory, tiny_model, tiny_tokenizer_file) -> Path:
    """Meta's layout: `params.json`, two float16 shards, `tokenizer.model`."""
    folder = tmp_path_factory.mktemp("meta") / "tiny-meta"
    return write_meta(folder, *tiny_model, shards=2, tokenizer=tiny_tokenizer_file)


@pytest.fixture(scope="session")
def tiny_gguf_file(tmp_path_factory, tiny_model, tiny_tokenizer_file) -> Path:
    """A GGUF v3 with F16 matrices and the sentencepiece vocabulary."""
    path = tmp_path_factory.mktemp("gguf") / "tiny-f16.gguf"
    return write_gguf(path, *tiny_model, dtype="f16", tokenizer=tiny_tokenizer_file)


@pytest.fixture(scope="session")
def tiny_gguf_q8_0_file(tmp_path_factory, tiny_model, tiny_tokenizer_file) -> Path:
    """The same model rounded to Q8_0."""
    path = tmp_path_factory.mktemp("gguf-q8") / "tiny-q8_0.gguf"
    return write_gguf(path, *tiny_model, dtype="q8_0", tokenizer=tiny_tokenizer_file)


@pytest.fixture(scope="session")
def shared_golden() -> Path:
    """The shared golden cases; skips where they are not on this machine."""
    folder = SHARED / "golden"
    if not folder.is_dir():
        pytest.skip("the shared golden cases are not on this machine")
    return folder
