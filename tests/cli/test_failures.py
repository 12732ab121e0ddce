"""Exit codes, and the one line that says what went wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from llama_rt import ConfigError, Llama


def said(done, code: int) -> str:
    """The error's text, after checking that it is one line and nothing else was printed."""
    assert done.code == code, done.err
    assert done.out == ""
    assert done.err.startswith("llama-rt: error: ")
    assert done.err.count("\n") == 1
    return done.err


def test_a_path_that_does_not_exist(process) -> None:
    assert "nowhere/model.gguf" in said(process("run", "-m", "nowhere/model.gguf", "Hi"), 1)


@pytest.mark.parametrize("command", ["run", "chat", "info", "bench", "convert", "perplexity"])
def test_every_command_names_the_missing_model(call, command: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("words")
    words = {
        "run": ["-m", "nowhere", "Hi"],
        "info": ["nowhere"],
        "convert": ["nowhere", tmp_path / "out.gguf", "--format", "f16"],
        "perplexity": ["-m", "nowhere", text],
    }.get(command, ["-m", "nowhere"])
    assert "nowhere" in said(call(command, *words), 1)


def test_a_folder_that_is_no_checkpoint(call, tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"\xff\xd8")
    assert "holiday.jpg" in said(call("info", tmp_path), 1)


def test_a_truncated_file(call, tiny_gguf_file: Path, tmp_path: Path) -> None:
    whole = tiny_gguf_file.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole[: len(whole) // 2])
    message = said(call("run", "-m", cut, "Hi"), 1)
    assert "cut.gguf" in message
    assert "tensor" in message or "bytes" in message


def test_a_file_that_is_no_model(call, tmp_path: Path) -> None:
    path = tmp_path / "notes.gguf"
    path.write_text("not a model")
    assert "notes.gguf" in said(call("info", path), 1)


def test_a_device_that_cannot_be_used(call, tiny_hf_folder: Path) -> None:
    assert "cuda" in said(call("run", "-m", tiny_hf_folder, "--device", "cuda", "Hi"), 1).lower()


def test_the_limits_that_the_command_repeats_are_the_librarys(call, tiny_gguf_file) -> None:
    with pytest.raises(ConfigError) as caught:
        Llama.load(tiny_gguf_file, device="cpu", isa="mmx", progress=False)
    levels = str(caught.value).partition("expected one of ")[2]
    assert "scalar" in levels
    assert f"there are {levels}; did" in said(call("run", "--isa", "mmx", "Hi"), 2)
    with pytest.raises(ConfigError, match="4096"):
        Llama.load(tiny_gguf_file, device="cpu", threads=4097, progress=False)
    assert "from 1 to 4096" in said(call("run", "--threads", "4097", "Hi"), 2)


def test_a_prompt_longer_than_the_context(call, tiny_hf_folder: Path) -> None:
    done = call("run", "-m", tiny_hf_folder, "--ctx", "16", "word " * 100)
    assert "16" in said(done, 1)


def test_a_context_longer_than_the_models(call, tiny_hf_folder: Path) -> None:
    message = said(call("run", "-m", tiny_hf_folder, "--ctx", "100000", "Hi"), 1)
    assert "100000" in message
    assert "--ctx" in message


def test_a_missing_prompt_file(call, tiny_hf_folder: Path) -> None:
    done = call("run", "-m", tiny_hf_folder, "--file", "no-such.txt")
    assert "no-such.txt: No such file" in said(done, 1)


def test_a_prompt_file_that_is_not_text(call, tiny_hf_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"caf\xe9")
    assert "UTF-8" in said(call("run", "-m", tiny_hf_folder, "--file", path), 1)


def test_adapters_and_bases_are_refused_by_name(call, tiny_hf_folder: Path) -> None:
    folder = tiny_hf_folder
    assert "no adapter" in said(call("run", "-m", folder, "--adapter", folder, "Hi"), 1)
    assert "nowhere" in said(call("run", "-m", folder, "--base", "nowhere", "Hi"), 1)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run", "--temprature", "1", "Hi"], "--temperature"),
        (["run", "--temperature", "-1", "Hi"], "error: --temperature: expected"),
        (["run", "--top-p", "1.5", "Hi"], "error: --top-p: expected"),
        (["run", "--temperature", "warm", "Hi"], "--temperature: 'warm' is not a number"),
        (["run", "--top-k", "1.5", "Hi"], "--top-k: '1.5' is not a whole number"),
        (["run", "--file", "x", "Hi"], "--file"),
        (["bench", "-m", "x", "--shape", "7B"], "--shape"),
        (["bench", "--format", "q4_0"], "--shape"),
        (["perplexity", "x", "--ctx", "8", "--stride", "9"], "--stride"),
        (["run", "--adapter", "a=b", "--adapter", "c", "Hi"], "--adapter"),
        (["chat"], "-m MODEL"),
        (["run", "--quantize", "q9_0", "Hi"], "unknown --quantize 'q9_0'; there are f32, f16"),
        (["info", "--quantize", "q9_0"], "did you mean q8_0?"),
        (["run", "--kv-dtype", "f64", "Hi"], "there are f16, bf16, f32, q8_0; did you mean"),
        (["run", "--device", "gpu", "Hi"], "--device: 'gpu' is not auto, cpu, cuda or cuda:N"),
        (["bench", "--device", "cuda:x"], "cuda:N"),
        (["bench", "--isa", "mmx"], "avx2"),
        (["bench", "--shape", "6B"], "7B, 13B, 33B, 65B"),
        (["bench", "--shape", "7B", "--format", "q9_0"], "q8_0"),
        (["convert", "nowhere", "x.gguf", "--format", "q4_k_x"], "q4_k_m"),
        (["run", "--stop", "", "Hi"], "--stop: an empty text"),
        (["run", "--threads", "99999999999", "Hi"], "--threads"),
        (["doctor", "--threads", "99999999999"], "--threads"),
        (["perplexity", "x", "--ctx", "3"], "--ctx: '3' is not a whole number of at least 4"),
        ([], "command"),
        (["fly"], "unknown command 'fly'"),
    ],
)
def test_usage(call, words: list[str], expected: str) -> None:
    assert expected in said(call(*words), 2)


def test_debug_adds_the_traceback(call) -> None:
    done = call("run", "-m", "nowhere", "--debug", "Hi")
    assert done.code == 1
    assert "Traceback" in done.err
    assert done.err.splitlines()[-1].startswith("llama-rt: error: nowhere")


def test_json_failures_leave_standard_output_empty(call) -> None:
    said(call("info", "nowhere", "--json"), 1)


def test_a_fault_of_ours_is_one_line_too(call, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        msg = "two\nlines"
        raise ZeroDivisionError(msg)

    monkeypatch.setattr("llama_rt.cli.info.find_checkpoint", broken)
    assert "--debug" in said(call("info", "x"), 1)


def test_half_a_shard_set(call, tiny_meta_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    shutil.copytree(tiny_meta_folder, folder)
    (folder / "consolidated.01.pth").unlink()
    assert "half" in said(call("info", folder), 1)


def test_arguments_of_the_library_are_called_by_their_options() -> None:
    from llama_rt.cli import _as_options

    text = "n_ctx: 9 is too much; n_ctx=4 would fit; kv_dtype='q8_0' halves the cache"
    expected = "--ctx: 9 is too much; --ctx 4 would fit; --kv-dtype q8_0 halves the cache"
    assert _as_options(text) == expected
    assert _as_options("config.json: key 'n_ctx' is missing") == (
        "config.json: key 'n_ctx' is missing"
    )
