"""`llama-rt run`."""

from __future__ import annotations

import io
import json
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import llama_rt
from llama_rt import Llama
from llama_rt.cli import main

SHORT = ("--max-tokens", "12", "--temperature", "0")


def test_streams_text_and_reports_on_one_line(process, tiny_hf_folder: Path) -> None:
    done = process("run", "-m", tiny_hf_folder, *SHORT, "Once upon a time")
    assert done.code == 0
    with Llama.load(tiny_hf_folder, progress=False) as llm:
        expected = llm.generate("Once upon a time", max_tokens=12, temperature=0.0).text
    assert done.out.rstrip("\n") == expected.rstrip("\n")
    assert done.out.endswith("\n")
    assert done.err.count("\n") == 1
    assert done.err.count("tok/s") == 2
    assert "seed" in done.err
    assert "\x1b" not in done.out + done.err


@pytest.mark.parametrize("model", ["tiny_hf_folder", "tiny_meta_folder", "tiny_gguf_file"])
def test_every_kind_of_checkpoint(call, model: str, request: pytest.FixtureRequest) -> None:
    done = call("run", "-m", request.getfixturevalue(model), *SHORT, "Once")
    assert done.code == 0, done.err
    assert done.out.strip()


def test_prompt_from_argument_words_file_and_pipe(call, tiny_hf_folder, tmp_path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("Once upon a time\n")
    model = ("run", "-m", tiny_hf_folder, *SHORT)
    by_argument = call(*model, "Once upon a time")
    assert by_argument.code == 0
    assert call(*model, "Once", "upon", "a", "time").out == by_argument.out
    assert call(*model, "--file", file).out == by_argument.out
    assert call(*model, stdin="Once upon a time\n").out == by_argument.out
    assert call(*model, "-", stdin="Once upon a time").out == by_argument.out


def test_without_a_model_it_is_the_built_in_one(call) -> None:
    built_in = Path(llama_rt.__file__).parent / "data" / "tales.gguf"
    if not built_in.is_file():
        pytest.skip("this tree has no built-in model")
    words = ("--seed", "3", "--max-tokens", "24", "Once upon a time")
    done = call("run", "--json", *words)
    assert done.code == 0, done.err
    assert len(done.object["text"].split()) > 8
    assert call("info", "--json").object["path"] == str(built_in)


def test_json_is_one_object_with_the_whole_result(call, tiny_hf_folder) -> None:
    done = call("run", "-m", tiny_hf_folder, "--json", "--max-tokens", "9", "--seed", "0", "Hello")
    report = done.object
    assert set(report) == {
        *("prompt", "text", "tokens", "finish_reason", "seed", "usage", "timings"),
    }
    assert (report["prompt"], report["seed"]) == ("Hello", 0)
    assert len(report["tokens"]) == report["usage"]["completion_tokens"] <= 9
    assert report["usage"]["prompt_tokens"] > 1
    assert done.err == ""


def test_the_reported_seed_repeats_the_run(call, tiny_hf_folder) -> None:
    model = ("run", "-m", tiny_hf_folder, "--json", "--max-tokens", "16", "Hello")
    first = call(*model).object
    again = call(*model, "--seed", str(first["seed"])).object
    assert again["tokens"] == first["tokens"]


def test_stop_text_with_escapes(call, tiny_hf_folder) -> None:
    model = ("run", "-m", tiny_hf_folder, "--json", "--max-tokens", "24", "--temperature", "0")
    whole = call(*model, "Once").object["text"]
    stop = whole[2:4]
    cut = call(*model, "--stop", stop.replace("\\", "\\\\").replace("\n", "\\n"), "Once").object
    assert cut["text"] == whole[: whole.index(stop)]
    assert cut["finish_reason"] == "stop"


def test_no_tokens_are_a_number_of_tokens(call, tiny_hf_folder) -> None:
    report = call("run", "-m", tiny_hf_folder, "--json", "--max-tokens", "0", "Once").object
    assert (report["text"], report["tokens"], report["finish_reason"]) == ("", [], "length")


@pytest.fixture
def lora_named_as_a_setting(tmp_path: Path, tiny_model) -> Path:
    """A LoRA, large enough to be seen, in a folder whose name holds an equals sign."""
    config, _ = tiny_model
    folder = tmp_path / "lr=1e-4"
    folder.mkdir()
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 64, "target_modules": ["down_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    random = np.random.default_rng(0)
    module = "base_model.model.model.layers.0.mlp.down_proj"
    factors = {
        f"{module}.lora_A.weight": random.standard_normal((4, config.ffn_dim), np.float32),
        f"{module}.lora_B.weight": random.standard_normal((config.dim, 4), np.float32),
    }
    save_file(factors, folder / "adapter_model.safetensors")
    return folder


def test_the_path_of_an_adapter_may_hold_an_equals_sign(
    call, tiny_hf_folder, lora_named_as_a_setting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = lora_named_as_a_setting
    with Llama.load(tiny_hf_folder, adapters=[folder], progress=False) as llm:
        expected = llm.generate("Once", max_tokens=12, temperature=0.0).tokens
    monkeypatch.chdir(folder.parent)
    model = ("run", "-m", tiny_hf_folder, *SHORT, "--json", "Once")
    assert call(*model).object["tokens"] != expected
    for given in (folder, folder.name, f"./{folder.name}", f"rate={folder}", f"a={folder.name}"):
        done = call(*model, "--adapter", given)
        assert done.code == 0, done.err
        assert done.object["tokens"] == expected
    assert "error: no/lr=1: " in call(*model, "--adapter", "no/lr=1").err
    assert "error: 1: " in call(*model, "--adapter", "lr=1").err


def test_echo_puts_the_prompt_in_front(call, tiny_hf_folder) -> None:
    model = ("run", "-m", tiny_hf_folder, *SHORT)
    plain = call(*model, "Once").out
    assert call(*model, "--echo", "Once").out == f"Once{plain}"


def test_text_is_shown_as_it_comes(long_folder, monkeypatch: pytest.MonkeyPatch) -> None:
    class Recorder(io.StringIO):
        def __init__(self) -> None:
            super().__init__()
            self.shown: list[int] = []

        def flush(self) -> None:
            self.shown.append(len(self.getvalue()))

    out = Recorder()
    monkeypatch.setattr(sys, "stdout", out)
    words = [
        "run",
        "-m",
        str(long_folder),
        "--max-tokens",
        "4000",
        "--logit-bias",
        "2=-1e9",
        "Once",
    ]
    assert main(words) == 0
    assert len(set(out.shown)) > 3


def test_options_reach_the_library(call, tiny_hf_folder) -> None:
    model = ("run", "-m", tiny_hf_folder, "--json", "--max-tokens", "6", "--temperature", "0")
    free = call(*model, "Once").object["tokens"]
    suppressed = [word for token in free for word in ("--logit-bias", f"{token}=-1e9")]
    assert not set(free) & set(call(*model, *suppressed, "Once").object["tokens"])
    options = ("--ctx", "32", "--kv-dtype", "f32", "--threads", "1", "--isa", "scalar")
    sized = call(*model, *options, "--repack", "never", "Once").object
    assert len(sized["tokens"]) == 6


def test_interrupt_keeps_what_was_written(start, long_folder) -> None:
    running = start("run", "-m", long_folder, "--logit-bias", "2=-1e9", "Once")
    first = running.stdout.read(16)
    running.send_signal(signal.SIGINT)
    rest, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert len(first) == 16
    assert (first + rest).endswith(b"\n")
    assert err.decode().splitlines() == ["interrupted"]


def test_interrupt_while_waiting_for_input(start, tiny_hf_folder) -> None:
    running = start("run", "-m", tiny_hf_folder)
    call = Path(f"/proc/{running.pid}/syscall")  # number and arguments; read is 0 on x86-64
    while not call.read_text().startswith("0 0x0 "):
        assert running.poll() is None
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert out == b""
    assert b"Traceback" not in err


def test_a_reader_that_has_seen_enough_is_no_error(start, long_folder) -> None:
    running = start("run", "-m", long_folder, "--logit-bias", "2=-1e9", "Once")
    running.stdout.read(4)
    running.stdout.close()
    err = running.stderr.read()
    assert running.wait(timeout=30) == 0
    assert err == b""
