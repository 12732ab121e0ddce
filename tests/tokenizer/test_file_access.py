"""Tokenizer files that cannot be read: a typed error that names the path, never a wait."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from llama_rt.errors import TokenizerError
from llama_rt.tokenizer import load_tokenizer
from permissions import without_permission

JSON_FILES = [
    "added_tokens.json",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
]
NEVER_READ = "/proc/self/mem"
NEEDS_PROC = pytest.mark.skipif(not Path(NEVER_READ).exists(), reason="needs /proc")


@pytest.fixture
def folder(tiny_tokenizer_file):
    """A model's folder that every user reaches, as pytest's are not."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        shutil.copy(tiny_tokenizer_file, path / "tokenizer.model")
        yield path


def refusal(folder, override=None) -> str:
    with pytest.raises(TokenizerError) as caught:
        load_tokenizer(folder, {}, "hf", override)
    return str(caught.value)


def test_a_model_file_without_permission(folder):
    file = folder / "tokenizer.model"
    with without_permission(file):
        assert refusal(folder) == f"{file}: cannot be read: Permission denied"
        assert refusal(folder, file) == f"{file}: cannot be read: Permission denied"


@pytest.mark.parametrize("name", JSON_FILES)
def test_a_json_file_without_permission(folder, name):
    file = folder / name
    file.write_text("{}")
    with without_permission(file):
        assert refusal(folder) == f"{file}: cannot be read: Permission denied"


def test_a_folder_without_permission(folder):
    with without_permission(folder):
        assert "cannot be read: Permission denied" in refusal(folder)
        assert "cannot be read: Permission denied" in refusal("model.gguf", folder)


@pytest.mark.parametrize("name", ["tokenizer.model", *JSON_FILES])
def test_other_things_in_a_folder_are_not_opened(folder, name):
    file = folder / name
    file.unlink(missing_ok=True)
    file.mkdir()
    assert refusal(folder) == f"{file}: is a folder, not a regular file"
    file.rmdir()
    os.mkfifo(file)
    assert refusal(folder) == f"{file}: is not a regular file"
    file.unlink()
    file.symlink_to(file)
    assert refusal(folder) == f"{file}: is not a regular file"  # links in a circle


@NEEDS_PROC
def test_a_file_that_fails_as_it_is_read(folder):
    assert refusal(folder, NEVER_READ) == f"{NEVER_READ}: cannot be read: Input/output error"
    file = folder / "tokenizer_config.json"
    file.symlink_to(NEVER_READ)
    assert refusal(folder) == f"{file}: cannot be read: Input/output error"


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "~nouser/x", "no.json", "no.gguf"])
def test_a_given_path_that_leads_to_nothing(folder, name):
    assert refusal(folder, name) == f"{name}: no such tokenizer file"


def test_a_given_pipe_is_not_opened(folder):
    os.mkfifo(folder / "pipe")
    assert refusal(folder, folder / "pipe") == f"{folder / 'pipe'}: is not a regular file"


def test_a_given_path_may_be_in_the_home(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    for path in ["~", "~/tokenizer.model", Path("~/tokenizer.model")]:
        assert load_tokenizer("model.gguf", {}, "gguf", path).vocab_size == 512


@pytest.mark.parametrize("path", [1, b"x", ["x"]])
def test_what_is_no_path_is_a_type_error(folder, path):
    with pytest.raises(TypeError, match="tokenizer: expected a path or None, got "):
        load_tokenizer(folder, {}, "hf", path)


def test_added_tokens_name_their_file(folder):
    tokens = [{"id": -5, "content": "x", "special": False}]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": tokens}))
    assert refusal(folder).startswith(f"{folder / 'tokenizer.json'}: added token id -5")


def test_json_with_half_a_character_is_refused(folder):
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({"unk_token": "\U0001f999"}))
    assert load_tokenizer(folder, {}, "hf").vocab_size == 512
    file.write_text(json.dumps({"unk_token": "\ud83e"}))
    assert refusal(folder).startswith(f"{file}: not JSON: 'utf-8' codec can't encode")
