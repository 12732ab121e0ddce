"""`llama-rt convert`: what is written runs, in this command and in another reader."""

from __future__ import annotations

from pathlib import Path

import pytest

SHORT = ("--max-tokens", "8", "--temperature", "0", "--json", "Once upon a time")


@pytest.mark.parametrize("name", ["f32", "f16", "bf16", "q8_0", "q4_0", "q5_1", "q4_k_m"])
def test_to_gguf(call, tiny_hf_folder, tmp_path, name: str) -> None:
    target = tmp_path / "made.gguf"
    done = call("convert", tiny_hf_folder, target, "--format", name, "--json")
    assert done.code == 0, done.err
    report = done.object
    assert set(report) == {"path", "format", "tensor_bytes", "tensors", "notes", "seconds"}
    assert (report["path"], report["format"]) == (str(target), name)
    assert target.stat().st_size > report["tensor_bytes"] > 0
    made = call("run", "-m", target, *SHORT).object
    if name in ("f32", "f16"):  # the weights are exact in both
        assert made["tokens"] == call("run", "-m", tiny_hf_folder, *SHORT).object["tokens"]
    assert len(made["tokens"]) > 0


def test_to_safetensors(call, tiny_meta_folder, tmp_path) -> None:
    target = tmp_path / "folder"
    done = call("convert", tiny_meta_folder, target, "--format", "f16")
    assert done.code == 0, done.err
    assert "wrote" in done.out
    made = call("run", "-m", target, *SHORT).object
    assert made["tokens"] == call("run", "-m", tiny_meta_folder, *SHORT).object["tokens"]


def test_another_reader_agrees(call, tiny_hf_folder, tmp_path) -> None:
    gguf = pytest.importorskip("gguf")
    target = tmp_path / "made.gguf"
    assert call("convert", tiny_hf_folder, target, "--format", "q8_0").code == 0
    reader = gguf.GGUFReader(str(target))
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.0.ffn_down.weight"] == "Q8_0"
    assert kinds["output_norm.weight"] == "F32"


def test_nothing_is_replaced_unasked(call, tiny_hf_folder, tmp_path) -> None:
    target = tmp_path / "precious.gguf"
    target.write_text("precious")
    words = ("convert", tiny_hf_folder, target, "--format", "f16")
    done = call(*words)
    assert done.code == 1
    assert "precious.gguf: exists; --force" in done.err
    assert target.read_text() == "precious"
    assert call(*words, "--force").code == 0
    assert target.read_bytes()[:4] == b"GGUF"


def test_a_source_is_never_written_over(call, tiny_gguf_file: Path) -> None:
    before = tiny_gguf_file.read_bytes()
    done = call("convert", tiny_gguf_file, tiny_gguf_file, "--format", "q8_0", "--force")
    assert done.code == 1
    assert tiny_gguf_file.read_bytes() == before


@pytest.mark.parametrize(
    ("target", "name", "said"),
    [
        ("folder", "q8_0", "bf16"),
        ("x.safetensors", "f16", "folder"),
        ("no/such/place/x.gguf", "f16", "place"),
    ],
)
def test_what_cannot_be_written_is_said_and_nothing_is_left(
    call, tiny_hf_folder, tmp_path, target: str, name: str, said: str
) -> None:
    done = call("convert", tiny_hf_folder, tmp_path / target, "--format", name)
    assert done.code == 1
    assert said in done.err
    assert done.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--base", "--adapter"])
def test_what_is_no_base_or_adapter_is_refused(call, tiny_hf_folder, tmp_path, option) -> None:
    words = ("--format", "f16", option, tmp_path / "nowhere")
    done = call("convert", tiny_hf_folder, tmp_path / "x.gguf", *words)
    assert done.code == 1
    assert "nowhere" in done.err
