"""Checkpoints of every format, loaded by the public API, give the logits of float64."""

import numpy as np
import pytest

from golden.make_golden import CASES, through
from llama_rt import Llama, _native
from reference.model import forward, relative_error

ISA_LEVELS = _native.cpu_info().tiers
RANDOM_CASES = range(100, 124)


def logits(path, ids, **options):
    with Llama.load(path, progress=False, **options) as llm:
        got = llm.logits(ids)
    assert got.dtype == np.float32
    assert got.shape == (len(ids), got.shape[1])
    return got


@pytest.mark.parametrize("isa", ISA_LEVELS)
@pytest.mark.parametrize("name", CASES)
def test_logits(golden, name, isa):
    case = golden(name)
    got = logits(case.path, case.ids, isa=isa)
    assert got.shape == case.logits.shape
    assert relative_error(got, case.logits) <= case.bound


@pytest.mark.parametrize("seed", RANDOM_CASES)
def test_random_models_of_transformers(golden, seed):
    case = golden(seed)
    assert relative_error(logits(case.path, case.ids), case.logits) <= case.bound


@pytest.mark.parametrize("name", ["hf-f32", "hf-biases", "hf-odd", "hf-llama3", "gguf-f32"])
def test_float32_cache_and_weights_are_exact_to_float32(golden, name):
    """Without rounding of weights or cache nothing hides: a wrong epsilon or factor shows."""
    case = golden(name)
    if name == "hf-biases":
        case = golden("hf-biases-bin")
    got = logits(case.path, case.ids, kv_dtype="f32")
    assert relative_error(got, case.logits) <= 3e-5


@pytest.mark.parametrize("name", ["hf-bf16", "gguf-q4_0", "gguf-q4_k", "meta-bf16-2"])
def test_packing_does_not_matter(golden, name):
    case = golden(name)
    for repack in ("never", "always"):
        got = logits(case.path, case.ids, repack=repack)
        assert relative_error(got, case.logits) <= case.bound


def test_formats_hold_the_same_model(
    tiny_model, tiny_hf_folder, tiny_meta_folder, tiny_gguf_file, tiny_gguf_q8_0_file
):
    ids = list(range(1, 120, 2))
    expected = forward(*tiny_model, ids)
    for path in (tiny_hf_folder, tiny_meta_folder, tiny_gguf_file):
        assert relative_error(logits(path, ids, kv_dtype="f32"), expected) <= 3e-5
    config, weights = tiny_model
    rounded = {n: through(w, "q8_0") if w.ndim == 2 else w for n, w in weights.items()}
    expected = forward(config, rounded, ids)
    assert relative_error(logits(tiny_gguf_q8_0_file, ids), expected) <= 2.5e-2
