"""`bench`, `perplexity` and `doctor`: their objects have the promised keys and true figures."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llama_rt import ConfigError, Llama, benchmark, hardware
from llama_rt.benchmark import synthetic
from llama_rt.checkpoint import open_checkpoint

BENCH_KEYS = {
    *("model", "device", "isa", "threads", "format", "weight_bytes", "load_s"),
    *("peak_rss_bytes", "read_gb_s", "prefill", "decode"),
}
QUICK = ("--prompt", "24", "--generate", "8", "--repeat", "2")


@pytest.fixture(autouse=True)
def quick_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading 2 GiB takes seconds; what it gives is tested on its own."""
    monkeypatch.setattr(hardware, "read_bandwidth", lambda *_, **__: 1e9)


@pytest.fixture
def tiny_shape(monkeypatch: pytest.MonkeyPatch, tiny_hf_folder: Path) -> str:
    """A shape that is made in no time."""
    config = open_checkpoint(tiny_hf_folder).config
    monkeypatch.setitem(synthetic.SHAPES, "1x64", config)
    return "1x64"


def test_bench_of_a_model(process, tiny_gguf_file) -> None:
    report = process("bench", "-m", tiny_gguf_file, "--json", *QUICK).object
    assert set(report) == BENCH_KEYS
    assert (report["device"], report["format"]) == ("cpu", "f16")
    assert report["prefill"]["tokens"] == 24
    assert {k: report["decode"][k] for k in ("context", "batch", "tokens")} == {
        "context": 0,
        "batch": 1,
        "tokens": 8,
    }
    for phase in ("prefill", "decode"):
        assert len(report[phase]["tok_s"]) == 2
        assert all(speed > 0 for speed in report[phase]["tok_s"])
    assert 0 < report["load_s"] < 60
    assert 0.5 < report["read_gb_s"] < 2000
    # The buffer that measured the bandwidth (2 GiB) is not in the peak.
    assert 8 << 20 < report["peak_rss_bytes"] < 1 << 30


def test_weight_bytes_are_those_a_token_reads(call, tiny_gguf_file) -> None:
    report = call("bench", "-m", tiny_gguf_file, "--json", *QUICK).object
    tensors = open_checkpoint(tiny_gguf_file).tensors
    read = sum(t.nbytes for name, t in tensors.items() if name != "tok_embeddings.weight")
    assert report["weight_bytes"] == read


@pytest.mark.parametrize("name", ["f32", "bf16", "q8_0", "q4_0"])
def test_bench_of_a_shape(call, tiny_shape, name: str) -> None:
    done = call("bench", "--shape", tiny_shape, "--format", name, "--json", *QUICK)
    assert done.code == 0, done.err
    assert (done.object["model"], done.object["format"]) == (tiny_shape, name)


def test_context_and_batch_count(call, tiny_shape) -> None:
    words = (
        "--prompt",
        "0",
        "--generate",
        "6",
        "--context",
        "700",
        "--batch",
        "3",
        "--repeat",
        "1",
    )
    report = call("bench", "--shape", tiny_shape, *words, "--json").object
    decode = report["decode"]
    assert (decode["context"], decode["batch"], len(decode["tok_s"])) == (700, 3, 1)
    assert report["prefill"] == {"tokens": 0, "tok_s": []}


def test_profile_names_the_ops(call, tiny_gguf_file) -> None:
    report = call("bench", "-m", tiny_gguf_file, "--profile", "--json", *QUICK).object
    assert set(report) == BENCH_KEYS | {"profile"}
    for phase in ("prefill", "decode"):
        ops = report["profile"][phase]
        assert {"matmul", "attention", "rms_norm"} <= set(ops)
        assert all(seconds >= 0 for seconds in ops.values())


@pytest.mark.parametrize("adapter", ["lora_rank", "llama_adapter"])
def test_adapters_are_run_and_named(call, tiny_gguf_file, adapter: str) -> None:
    option = "--" + adapter.replace("_", "-")
    words = (option, "4", "--batch", "2", "--profile", "--json", *QUICK)
    report = call("bench", "-m", tiny_gguf_file, *words).object
    assert set(report) == BENCH_KEYS | {"profile", "plain_tok_s", adapter}
    assert report[adapter] == 4
    assert len(report["plain_tok_s"]) == len(report["decode"]["tok_s"])
    plain = call("bench", "-m", tiny_gguf_file, "--batch", "2", "--profile", "--json", *QUICK)
    assert plain.object["profile"]["decode"]["adapt"] == 0
    assert report["profile"]["decode"]["adapt"] > 0
    assert all(speed > 0 for speed in report["decode"]["tok_s"])


def test_people_get_a_table(call, tiny_gguf_file) -> None:
    done = call("bench", "-m", tiny_gguf_file, "--profile", "--lora-rank", "2", *QUICK)
    assert "tok/s" in done.out
    assert "matmul" in done.out
    assert "of the speed without it" in done.out


def test_save_writes_the_shape_as_a_model(call, tiny_shape, tmp_path) -> None:
    path = tmp_path / "made.gguf"
    done = call(
        "bench", "--shape", tiny_shape, "--format", "q8_0", "--save", path, "--json", *QUICK
    )
    assert done.code == 0, done.err
    made, original = open_checkpoint(path), synthetic.synthetic_checkpoint(tiny_shape, "q8_0")
    for name, tensor in original.tensors.items():
        assert made.tensors[name].dtype == tensor.dtype
        if not name.endswith(("wq.weight", "wk.weight")):  # these may be permuted in the file
            assert np.array_equal(made.tensors[name].read(), tensor.read())
    assert call("bench", "-m", path, "--json", *QUICK).code == 0


def test_a_shape_that_does_not_fit_says_what_is_missing(call) -> None:
    done = call("bench", "--shape", "65B", "--format", "f32")
    assert done.code == 1
    assert "missing" in done.err


def test_bench_can_be_interrupted(start, tiny_gguf_file) -> None:
    words = ("--prompt", "200", "--generate", "200", "--repeat", "1000000")
    running = start("bench", "-m", tiny_gguf_file, *words)
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(timeout=3)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, b"")
    assert err.splitlines() == [b"interrupted"]


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="batch"):
        benchmark.Settings(batch=0)
    with pytest.raises(ConfigError, match="context"):
        benchmark.Settings(context=-1)


@pytest.fixture(scope="module")
def text_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("The quick brown fox jumps over the lazy dog. " * 20, encoding="utf-8")
    return path


def test_perplexity_is_the_scores(call, tiny_hf_folder, text_file) -> None:
    words = ("-m", tiny_hf_folder, text_file, "--ctx", "64", "--stride", "64", "--json")
    report = call("perplexity", *words).object
    with Llama.load(tiny_hf_folder, progress=False) as llm:
        ids = llm.tokenizer.encode(text_file.read_text())
        losses = [-llm.score(ids[i : i + 64]) for i in range(0, len(ids) - 63, 64)]
    assert report["tokens"] == 63 * len(losses)
    assert report["windows"] == len(losses)
    assert report["perplexity"] == pytest.approx(math.exp(np.mean(losses)), rel=1e-5)
    assert report["nll"] == pytest.approx(math.log(report["perplexity"]))
    # A model of random weights knows nothing: near to as many choices as there are tokens.
    assert 300 < report["perplexity"] < 900


def test_perplexity_for_people_and_from_a_pipe(call, tiny_hf_folder, text_file) -> None:
    words = ("perplexity", "-m", tiny_hf_folder, "--ctx", "64")
    done = call(*words, text_file)
    assert done.out.startswith("perplexity ")
    assert "window" in done.err
    assert call(*words, "-", stdin=text_file.read_text()).out == done.out
    few = call(*words, "--windows", "2", "--json", text_file).object
    assert few["windows"] == 2


def test_a_text_shorter_than_a_window(call, tiny_hf_folder, tmp_path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("too short")
    done = call("perplexity", "-m", tiny_hf_folder, "--ctx", "64", path)
    assert done.code == 1
    assert "64" in done.err


def test_the_error_of_a_single_token_is_null(call, tiny_hf_folder, text_file) -> None:
    words = ("perplexity", "-m", tiny_hf_folder, "--ctx", "4", "--windows", "1", text_file)
    done = call(*words, "--json")
    assert done.code == 0, done.err
    assert (done.object["tokens"], done.object["error"]) == (1, None)
    assert done.object["perplexity"] == pytest.approx(math.exp(done.object["nll"]))
    assert call(*words).out.endswith("+/- inf\n")


def test_doctor(process) -> None:
    report = process("doctor", "--json").object
    assert set(report) == {
        *("processor", "isa", "tiers", "unused_tiers", "threads", "cores", "quota", "memory_bytes"),
        *("memory_available_bytes", "read_gb_s", "cuda", "versions", "system"),
    }
    assert report["isa"] in report["tiers"]
    assert report["tiers"][0] == "scalar"
    assert report["cores"] == len(os.sched_getaffinity(0))
    assert 1 <= report["threads"] <= report["cores"]
    assert 0 < report["memory_available_bytes"] <= report["memory_bytes"]
    assert report["read_gb_s"] > 0.5
    assert report["cuda"]["available"] == (report["cuda"]["reason"] is None)
    assert report["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))


def test_doctor_for_people(call) -> None:
    done = call("doctor", "--threads", "1")
    assert done.code == 0
    for word in ("processor", "ISA level", "threads", "bandwidth", "1.0 GB/s", "GPU", "numpy"):
        assert word in done.out


def test_threads_respect_the_affinity_mask() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from llama_rt.hardware import inspect; found = inspect()\n"
        "print(found.cores, found.threads)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["1", "1"], done.stderr


def test_json_of_numbers_is_plain(call, tiny_gguf_file) -> None:
    done = call("bench", "-m", tiny_gguf_file, "--json", *QUICK)
    assert json.loads(done.out, parse_constant=pytest.fail) == done.object
