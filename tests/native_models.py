"""Builds native models and runners from reference weights, for tests that need no checkpoint."""

from collections.abc import Mapping
from functools import cache

import numpy as np

from llama_rt import _native
from reference.blocks import FORMATS, decode, encode, random_bytes
from reference.model import Config, tensor_shapes


@cache
def cpu(isa: str | None = None, threads: int = 2):
    """A CPU backend, opened once per ISA level and thread count; reproducible."""
    return _native.open_backend("cpu", isa=isa, threads=threads, reproducible=True)


def build_model(
    config: Config,
    weights: Mapping[str, np.ndarray],
    *,
    stored: Mapping[str, tuple[str, np.ndarray]] | None = None,
    isa: str | None = None,
    threads: int = 1,
    repack: str = "auto",
):
    """A finished native model; `stored` replaces weights by `(dtype, bytes)` under their names."""
    return model_on(cpu(isa, threads), config, weights, stored=stored, repack=repack)


def model_on(
    backend,
    config: Config,
    weights: Mapping[str, np.ndarray],
    *,
    stored: Mapping[str, tuple[str, np.ndarray]] | None = None,
    repack: str = "auto",
):
    """The same on any backend."""
    model = _native.Model(backend, repack=repack, **config.native_options())
    for name, value in weights.items():
        dtype, data = (stored or {}).get(name, ("f32", value))
        model.add(name, np.ascontiguousarray(data), dtype, value.shape)
    model.finish()
    return model


def build_runner(
    config: Config,
    weights: Mapping[str, np.ndarray],
    *,
    stored: Mapping[str, tuple[str, np.ndarray]] | None = None,
    isa: str | None = None,
    threads: int = 1,
    repack: str = "auto",
    n_ctx: int = 256,
    kv_dtype: str = "f32",
    cache_tokens: int = 4096,
    **options,
):
    """A runner over `build_model`; more options go to `_native.Runner`."""
    model = build_model(config, weights, stored=stored, isa=isa, threads=threads, repack=repack)
    return _native.Runner(
        model, n_ctx=n_ctx, kv_dtype=kv_dtype, cache_tokens=cache_tokens, **options
    )


def stored_as(config: Config, dtype: str, seed: int = 0):
    """Matrices in `dtype`: what they are as float32, and `(dtype, bytes)` for each.

    Block types get random blocks, so that every code and scale pattern occurs.
    """
    weights, stored = {}, {}
    rng = np.random.default_rng(seed)
    for i, (name, shape) in enumerate(tensor_shapes(config).items()):
        if len(shape) == 1:
            gain = 1.0 if name.endswith("norm.weight") else 0.0
            weights[name] = (gain + 0.1 * rng.standard_normal(shape)).astype(np.float32)
            continue
        data = random_bytes(dtype, *shape, seed=1000 * seed + i, spread=0.5)
        weights[name] = decode(data, dtype).reshape(shape)
        stored[name] = (dtype, data)
    return weights, stored


def rounded_to(weights: Mapping[str, np.ndarray], dtype: str):
    """All tensors (norms and biases too) in an element type: values as stored, and the bytes."""
    assert FORMATS[dtype].elements == 1
    stored = {name: (dtype, encode(value, dtype)) for name, value in weights.items()}
    values = {n: decode(data, dtype).reshape(weights[n].shape) for n, (_, data) in stored.items()}
    return values, stored


def logits(runner, ids) -> np.ndarray:
    """All logits `[n, vocab]` of `ids` in a fresh sequence, which is released again."""
    sequence = runner.create()
    try:
        return runner.forward([sequence], [np.asarray(ids, np.int32)], outputs="all")
    finally:
        runner.release(sequence)
