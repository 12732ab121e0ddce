"""`plan`: bytes against what loading really takes, and no weight read."""

import pytest

from llama_rt import CapacityError, ConfigError, Llama, Plan, plan
from llama_rt.checkpoint import TensorRecord
from llama_rt.memory import report
from llama_rt.memory.estimate import kv_bytes
from native_models import build_runner
from reference.model import Config, random_weights


def test_it_reads_headers_only(tiny_gguf_file, monkeypatch):
    def read(self):
        raise AssertionError(self.name)

    monkeypatch.setattr(TensorRecord, "read", read)
    assert isinstance(plan(tiny_gguf_file), Plan)


@pytest.mark.parametrize("kv_dtype", ["f16", "f32", "q8_0"])
@pytest.mark.parametrize("head_dim", [64, 80, 100])
def test_cache_bytes_are_those_of_the_runner(kv_dtype, head_dim):
    config = Config(n_heads=2, n_kv_heads=1, head_dim=head_dim, n_layers=3)
    runner = build_runner(config, random_weights(config, seed=1), kv_dtype=kv_dtype)
    held = runner.memory()["kv_cache_max"]
    assert held == 4096 * kv_bytes(config, kv_dtype, "cpu")


# csrc/cuda/kernels/kv.cuh: widths that kernels are made for.
@pytest.mark.parametrize(("head_dim", "width"), [(64, 64), (80, 96), (100, 128), (160, 192)])
def test_cache_bytes_of_a_gpu_count_the_width_of_its_kernels(head_dim, width):
    config = Config(n_heads=2, n_kv_heads=2, head_dim=head_dim, n_layers=3)
    assert kv_bytes(config, "bf16", "cuda") == 3 * 2 * 2 * width * 2
    scales = 2 * (width // 32) * 4
    assert kv_bytes(config, "q8_0", "cuda") == 3 * 2 * (2 * width + scales)


@pytest.mark.parametrize("quantize", [None, "q8_0"])
def test_bytes_are_those_of_the_loaded_model(tiny_hf_folder, quantize):
    expected = plan(tiny_hf_folder, quantize=quantize, n_ctx=128)
    with Llama.load(tiny_hf_folder, quantize=quantize, n_ctx=128, repack="never", threads=1) as llm:
        memory = llm.memory()
    assert expected.weights_bytes == pytest.approx(memory["weights"], rel=0.02)
    # keys and values, 2 layers, 2 heads of 16, half precision
    assert expected.kv_bytes == 2 * 2 * 2 * 16 * 2 * 128
    assert expected.workspace_bytes == pytest.approx(memory["workspace"], rel=0.2)
    assert expected.total_bytes == (
        expected.weights_bytes + expected.kv_bytes + expected.workspace_bytes
    )


@pytest.mark.parametrize("quantize", [None, "q4_0"])
def test_a_table_that_is_the_output_too_is_counted_as_it_is_held(quantize):
    with Llama.load(quantize=quantize, threads=1, progress=False) as llm:
        held = llm.memory()["weights"]
    assert plan(None, quantize=quantize).weights_bytes == pytest.approx(held, rel=0.02)


def test_what_it_says(tiny_hf_folder, tiny_model):
    found = plan(tiny_hf_folder, "cpu")
    assert found.device == "cpu"
    assert found.fits
    assert found.n_ctx == 256
    assert found.parameters == sum(weight.size for weight in tiny_model[1].values())
    assert found.formats == {"f32": 4 * found.parameters}
    assert found.decode_tok_s > 0
    assert found.prefill_tok_s > 0
    assert found.threads >= 1
    text = str(found)
    assert "fits" in text
    assert "tokens/s" in text


def test_what_does_not_fit_is_said_with_what_would(tiny_hf_folder, monkeypatch):
    roomy = plan(tiny_hf_folder)
    free = roomy.weights_bytes + roomy.workspace_bytes + roomy.kv_bytes // 2
    monkeypatch.setattr(report, "free_memory", lambda _: free)
    found = plan(tiny_hf_folder)
    assert not found.fits
    assert "n_ctx=" in found.notes[0]
    assert "does not fit" in str(found)
    less = roomy.weights_bytes
    monkeypatch.setattr(report, "free_memory", lambda _: less)
    assert not plan(tiny_hf_folder).fits


def test_arguments_are_checked(tiny_hf_folder):
    with pytest.raises(ConfigError, match="quantize"):
        plan(tiny_hf_folder, quantize="q9")
    with pytest.raises(CapacityError, match="n_ctx"):
        plan(tiny_hf_folder, n_ctx=10**6)
    with pytest.raises(ConfigError, match="tpu"):
        plan(tiny_hf_folder, "tpu")
