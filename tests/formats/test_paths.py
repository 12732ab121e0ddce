"""Paths that lead to no readable file: pipes, sockets, circles, names too long, no permission."""

import os
import stat
import tempfile
from pathlib import Path

import pytest

from formats.test_gguf import split
from llama_rt import plan
from llama_rt.adapters import open_adapter
from llama_rt.checkpoint import open_checkpoint
from llama_rt.errors import CheckpointError, CheckpointNotFoundError
from llama_rt.files import kind_of, open_file
from permissions import without_permission
from reference.checkpoints import write_gguf, write_hf, write_meta
from reference.model import Config, random_weights

CONFIG = Config(dim=32, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=16, ffn_dim=32, vocab_size=40)
OPENERS = [open_checkpoint, open_adapter, plan]


def folder(path):
    path.mkdir()


def circle(path):
    path.symlink_to(path.name)


def listener(path):
    os.mknod(path, stat.S_IFSOCK | 0o600)


KINDS = {
    "folder": (folder, "folder", "is a folder, not a regular file"),
    "pipe": (os.mkfifo, "other", "is not a regular file"),
    "socket": (listener, "other", "is not a regular file"),
    "circle": (circle, "other", "is not a regular file"),
}


@pytest.fixture(params=KINDS)
def thing(request):
    """(puts it at a path, its kind, what is said of it)."""
    return KINDS[request.param]


def test_kinds(tmp_path, thing):
    put, kind, said = thing
    put(tmp_path / "x")
    assert kind_of(tmp_path / "x") == kind
    with pytest.raises(CheckpointError, match=f"x: {said}"):
        open_file(tmp_path / "x")


def test_devices_and_what_is_not_there(tmp_path):
    assert kind_of(Path("/dev/zero")) == "other"
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("missing", "file/below", "dangling", "x" * 300, "x\0y", "x/" * 3000):
        assert kind_of(tmp_path / name) == "nothing"
    assert kind_of(tmp_path / "file") == "file"


@pytest.mark.parametrize("opener", OPENERS)
def test_paths_that_are_no_file(tmp_path, opener):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(CheckpointError, match=f"{path}: is not a regular file"):
            opener(path)


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000, "x" * 5000])
def test_names_that_are_too_long_for_anything_to_be_there(tmp_path, opener, name):
    with pytest.raises(CheckpointNotFoundError, match="no such file"):
        opener(tmp_path / name)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs /proc")
@pytest.mark.parametrize("opener", OPENERS)
def test_files_that_fail_while_they_are_read(opener):
    with pytest.raises(CheckpointError, match="/proc/self/mem: cannot be read: Input/output"):
        opener("/proc/self/mem")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_in_a_hugging_face_folder(tmp_path, thing, name):
    put, _, said = thing
    place = write_hf(tmp_path / "m", CONFIG, random_weights(CONFIG, seed=1)) / name
    place.unlink()
    put(place)
    with pytest.raises(CheckpointError, match=f"{place}: {said}"):
        open_checkpoint(tmp_path / "m")


@pytest.mark.parametrize("name", ["params.json", "consolidated.01.pth"])
def test_in_a_meta_folder(tmp_path, thing, name):
    put, _, said = thing
    place = write_meta(tmp_path / "m", CONFIG, random_weights(CONFIG, seed=1), shards=2) / name
    place.unlink()
    put(place)
    with pytest.raises(CheckpointError, match=f"{place}: {said}"):
        open_checkpoint(tmp_path / "m")


def test_in_place_of_a_part_of_a_split_file(tmp_path, thing):
    put, _, said = thing
    split(tmp_path / "m.gguf", random_weights(Config(), seed=1))
    first, place, *_ = sorted(tmp_path.glob("*.gguf"))
    place.unlink()
    put(place)
    with pytest.raises(CheckpointError, match=f"{place}: {said}"):
        open_checkpoint(first)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_in_an_adapter_folder(tmp_path, thing, name):
    put, _, said = thing
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (tmp_path / name).unlink(missing_ok=True)
    put(tmp_path / name)
    with pytest.raises(CheckpointError, match=f"{name}: {said}"):
        open_adapter(tmp_path)


def test_a_shard_name_that_is_too_long(tmp_path):
    path = write_hf(tmp_path / "m", CONFIG, random_weights(CONFIG, seed=1))
    index = path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"x": "' + "s" * 100_000 + '"}}')
    with pytest.raises(CheckpointError, match=r"index.json: shard 's+' is missing") as caught:
        open_checkpoint(path)
    assert len(str(caught.value)) < 1000


@pytest.fixture
def public():
    """A folder that every user reaches, as pytest's are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("name", ["m.gguf", "m.pth"])
def test_files_that_may_not_be_read(public, opener, name):
    write_gguf(public / name, CONFIG, random_weights(CONFIG, seed=1))
    with without_permission(public / name), pytest.raises(
        CheckpointError, match=f"{name}: cannot be read: Permission denied"
    ):  # fmt: skip
        opener(public / name)


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("mode", [0o000, 0o644, 0o311], ids=oct)
def test_folders_that_may_not_be_read(public, opener, mode):
    inner = public / "inner"
    write_hf(inner, CONFIG, random_weights(CONFIG, seed=1))
    (inner / "consolidated.00.pth").write_bytes(b"PK\3\4")
    with without_permission(inner, mode):
        for path in (inner, inner / "consolidated.00.pth"):
            with pytest.raises(CheckpointError, match=f"{inner}"):
                opener(path)
