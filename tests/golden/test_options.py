"""Options of loading that change numbers: quantizing, cache types, long inputs; all in float64."""

from functools import cache

import numpy as np
import pytest

from llama_rt import Llama, _native
from reference.blocks import FORMATS
from reference.checkpoints import write_gguf, write_hf
from reference.model import Config, forward, random_weights, relative_error

CONFIG = Config(dim=256, n_heads=4, n_kv_heads=2, head_dim=64, ffn_dim=512)
IDS = np.random.default_rng(2).integers(0, 512, 40).tolist()
ENCODABLE = [row.name for row in _native.dtypes() if row.encodable]
BOUNDS = {"f32": 2e-3, "f16": 2e-3, "bf16": 1.5e-2}


@pytest.fixture(scope="module")
def wide(tmp_path_factory, tiny_tokenizer_file):
    """A float32 folder whose rows are whole super-blocks, and its weights."""
    weights = random_weights(CONFIG, seed=3, spread=0.5)
    folder = tmp_path_factory.mktemp("options") / "wide"
    return write_hf(folder, CONFIG, weights, tokenizer=tiny_tokenizer_file), weights


def logits(path, ids, **options):
    with Llama.load(path, progress=False, **options) as llm:
        return llm.logits(ids)


@cache
def rounded(dtype, shape, data):
    values = np.frombuffer(data, np.float32)
    stored = _native.encode(values.reshape(shape), dtype)
    return _native.decode(stored, dtype, values.size).reshape(shape)


def quantized(weights, dtype):
    """Matrices whose rows are whole blocks go through `dtype`, everything else stays."""
    unit = FORMATS[dtype].elements
    return {
        name: rounded(dtype, w.shape, w.tobytes()) if w.ndim == 2 and w.shape[1] % unit == 0 else w
        for name, w in weights.items()
    }


@pytest.mark.parametrize("dtype", ENCODABLE)
def test_quantizing_while_loading(wide, dtype):
    path, weights = wide
    got = logits(path, IDS, quantize=dtype)
    expected = forward(CONFIG, quantized(weights, dtype), IDS)
    assert relative_error(got, expected) <= BOUNDS.get(dtype, 2.5e-2)


@pytest.mark.parametrize("dtype", ["q4_0", "q4_k"])
def test_rows_that_are_no_whole_blocks_stay_as_they_are(golden, dtype):
    case = golden("hf-odd")
    assert relative_error(logits(case.path, case.ids, quantize=dtype), case.logits) <= case.bound


@pytest.mark.parametrize("name", ["hf-odd", "hf-f32", "hf-mistral", "gguf-tied"])
@pytest.mark.parametrize("kv_dtype", ["f32", "f16", "bf16", "q8_0"])
def test_cache_types(golden, name, kv_dtype):
    """Head widths that are no multiple of 32 included."""
    case = golden(name)
    bound = max(case.bound, {"bf16": 1.5e-2, "q8_0": 2.5e-2}.get(kv_dtype, 0))
    assert relative_error(logits(case.path, case.ids, kv_dtype=kv_dtype), case.logits) <= bound


def test_inputs_longer_than_a_chunk(tmp_path, tiny_tokenizer_file):
    """More ids than one forward takes, more positions than one range of attention."""
    config = Config(max_context=2048, n_layers=1)
    weights = random_weights(config, seed=5)
    path = write_gguf(
        tmp_path / "long.gguf", config, weights, dtype="f32", tokenizer=tiny_tokenizer_file
    )
    ids = np.random.default_rng(3).integers(0, 512, 1300).tolist()
    assert relative_error(logits(path, ids), forward(config, weights, ids)) <= 2e-3


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_and_runs_give_the_same_bits(wide, threads):
    path, _ = wide
    for quantize in (None, "q4_k"):
        expected = logits(path, IDS, threads=1, quantize=quantize)
        np.testing.assert_array_equal(
            logits(path, IDS, threads=threads, quantize=quantize), expected
        )


def test_batches_and_chunks_give_the_same_bits(wide):
    """One by one, side by side or in any pieces: the engine's choices do not show."""
    path, _ = wide
    prompts = [IDS[:5], IDS[3:40], IDS[10:11], IDS[:33]]
    with Llama.load(path, progress=False, quantize="q4_0", reproducible=True) as llm:
        alone = [llm.generate(p, max_tokens=12, temperature=0.0, logprobs=3) for p in prompts]
        together = llm.generate(prompts, max_tokens=12, temperature=0.0, logprobs=3)
    for a, b in zip(alone, together, strict=True):
        assert a.tokens == b.tokens
        assert a.logprobs == b.logprobs
