"""`org/name` through a Hub cache made here: no network is needed, and none is used."""

import sys

import pytest

from llama_rt.checkpoint import open_checkpoint
from llama_rt.checkpoint.hub import fetch, is_hub_name
from llama_rt.errors import CheckpointNotFoundError, MissingExtraError
from reference.checkpoints import write_hf
from reference.model import Config, random_weights

huggingface_hub = pytest.importorskip("huggingface_hub")

CONFIG = Config(dim=32, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=16, ffn_dim=32, vocab_size=40)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache as the library lays it out, without a way to the network."""
    root = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return root


def fill(cache, name, container="safetensors"):
    entry = cache / f"models--{name.replace('/', '--')}"
    write_hf(
        entry / "snapshots" / COMMIT, CONFIG, random_weights(CONFIG, seed=1), container=container
    )
    (entry / "refs").mkdir()
    (entry / "refs" / "main").write_text(COMMIT)
    return entry / "snapshots" / COMMIT


@pytest.mark.parametrize("container", ["safetensors", "bin"])
def test_opens_from_the_cache(cache, container):
    folder = fill(cache, "org/tiny-llama", container)
    checkpoint = open_checkpoint("org/tiny-llama")
    assert checkpoint.kind == "hf"
    assert checkpoint.path.resolve() == folder.resolve()
    assert checkpoint.config.dim == 32


def test_a_local_path_wins(cache, tmp_path, monkeypatch):
    fill(cache, "org/name")
    local = write_hf(tmp_path / "org" / "name", CONFIG, random_weights(CONFIG, seed=1))
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint("org/name").path.resolve() == local


@pytest.mark.usefixtures("cache")
def test_not_in_the_cache():
    with pytest.raises(CheckpointNotFoundError, match="org/other"):
        open_checkpoint("org/other")


def test_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"llama-rt\[hf\]"):
        fetch("org/name")


@pytest.mark.parametrize("name", ["a/b", "meta-llama/Llama-2-7b-hf", "org/name.v1_x"])
def test_names(name):
    assert is_hub_name(name)


@pytest.mark.parametrize(
    "name", ["a", "/a/b", "a/b/c", "../x", "a/..", "./a", "a/", "~/model", "a b/c", "models/x.gguf"]
)
def test_other_texts(name):
    assert not is_hub_name(name)
