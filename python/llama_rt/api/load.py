"""Loading: from a path and options to everything a `Llama` is made of.

Cheap checks come first: nothing of the weights is read before the arguments, the context and the
memory are known to be right.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llama_rt import _native
from llama_rt.api.adapter_choice import (
    LoadedAdapter,
    attach_adapters,
    merge_adapters,
    open_adapters,
)
from llama_rt.api.weights import Repack, build_model
from llama_rt.engine import Engine
from llama_rt.errors import ConfigError, LlamaRtError, MissingExtraError, TokenizerError
from llama_rt.hardware import free_memory, open_backend
from llama_rt.memory import (
    MAX_BATCH_TOKENS,
    MAX_SEQUENCES,
    check_memory,
    check_quantize,
    estimate_memory,
    resolve_context,
)

if TYPE_CHECKING:
    from llama_rt.adapters import AdapterFile
    from llama_rt.checkpoint import Checkpoint
    from llama_rt.memory import MemoryEstimate
    from llama_rt.tokenizer import Tokenizer

__all__ = ["Loaded", "load"]

_log = logging.getLogger("llama_rt")
_REPACK = ("auto", "never", "always")


@dataclass(frozen=True)
class Loaded:
    """The parts of a `Llama`.

    Attributes:
        checkpoint: What was opened; its records still name the files.
        tokenizer: The tokenizer, or why there is none.
        backend: The device in use.
        model: Weights.
        runner: Model with cache and workspace; the engine's own.
        engine: Takes requests.
        n_ctx: Tokens of context.
        cache_tokens: Tokens of cache, all sequences together.
        adapters: Loaded adapters by name.
        seconds: Time that loading took.
    """

    checkpoint: Checkpoint
    tokenizer: Tokenizer | LlamaRtError
    backend: _native.Backend
    model: _native.Model
    runner: _native.Runner
    engine: Engine
    n_ctx: int
    cache_tokens: int
    adapters: Mapping[str, LoadedAdapter]
    seconds: float


def load(
    path: str | Path | None,
    *,
    device: str,
    quantize: str | None,
    n_ctx: int | None,
    threads: int | None,
    isa: str | None,
    repack: Repack,
    kv_dtype: str,
    base: str | Path | None,
    adapters: Iterable[str | Path] | Mapping[str, str | Path],
    tokenizer: str | Path | None,
    reproducible: bool,
    progress: bool | None,
    kv_cache_bytes: int | None = None,
    max_waiting: int | None = None,
) -> Loaded:
    """Loads a model; the arguments are those of `Llama.load`."""
    start = time.perf_counter()
    files = open_adapters(adapters)
    check_quantize(quantize)
    if repack not in _REPACK:
        msg = f"repack: expected one of {', '.join(_REPACK)}, got {repack!r}"
        raise ConfigError(msg)
    checkpoint = merge_adapters(_find(path, base), files)
    context = resolve_context(checkpoint.config, n_ctx)
    backend = open_backend(device, isa=isa, threads=threads, reproducible=reproducible)
    needed = estimate_memory(
        checkpoint,
        quantize=quantize,
        n_ctx=context,
        kv_dtype=kv_dtype,
        device=backend.name,
        repack=repack,
    )
    added = sum(file.nbytes for file in files.values() if not file.merges)
    needed = replace(needed, weights=needed.weights + added)
    available_tokens = check_memory(
        needed,
        free_memory(backend.name),
        explicit=n_ctx is not None,
        quantize=quantize,
        kv_dtype=kv_dtype,
    )
    if tokenizer is None:
        tokenizer = _enlarged_tokenizer(files)
    opened_tokenizer = _open_tokenizer(checkpoint, tokenizer)
    model = build_model(
        checkpoint,
        backend,
        quantize=quantize,
        repack=repack,
        progress=progress,
        n_ctx=context,
    )
    opened_adapters = attach_adapters(files, model, checkpoint)
    if kv_cache_bytes is not None:
        available_tokens = min(available_tokens, _tokens_in(kv_cache_bytes, needed))
    # Every running request as long as the context, and as much again for what is kept of old ones.
    cache_tokens = min(available_tokens, 2 * MAX_SEQUENCES * (context + _native.KV_PAGE_TOKENS))
    runner = _native.Runner(
        model,
        n_ctx=context,
        kv_dtype=kv_dtype,
        max_batch_tokens=MAX_BATCH_TOKENS,
        cache_tokens=cache_tokens,
    )
    engine = Engine(
        runner,
        n_ctx=context,
        cache_tokens=cache_tokens,
        max_batch_tokens=MAX_BATCH_TOKENS,
        max_sequences=MAX_SEQUENCES,
        max_waiting=max_waiting,
    )
    return Loaded(
        checkpoint=checkpoint,
        tokenizer=opened_tokenizer,
        backend=backend,
        model=model,
        runner=runner,
        engine=engine,
        n_ctx=context,
        cache_tokens=cache_tokens,
        adapters=opened_adapters,
        seconds=time.perf_counter() - start,
    )


def _find(path: str | Path | None, base: str | Path | None) -> Checkpoint:
    """The checkpoint at `path`, or the sum of the delta there and its base."""
    from llama_rt.checkpoint import find_checkpoint, looks_like_a_delta, open_delta

    if base is None:
        checkpoint = find_checkpoint(path)
        if looks_like_a_delta(checkpoint):
            _log.warning(
                "%s: its last norm is near 0: these look like differences to another model, which "
                "mean nothing alone; give that model as `base` (--base)",
                checkpoint.path,
            )
        return checkpoint
    if path is None:
        msg = "base: the built-in model is no delta; give the delta as `path`"
        raise ConfigError(msg)
    return open_delta(path, find_checkpoint(base))


def _enlarged_tokenizer(files: Mapping[str, AdapterFile]) -> Path | None:
    """The folder of an adapter that brings tables and, with its new tokens, a tokenizer."""
    from llama_rt.files import kind_of

    for file in files.values():
        tables = any(getattr(delta, "name", "") == "tok_embeddings.weight" for delta in file.deltas)
        names = ("tokenizer.json", "tokenizer.model")
        if tables and any(kind_of(file.path / name) == "file" for name in names):
            return file.path
    return None


def _open_tokenizer(
    checkpoint: Checkpoint, override: str | Path | None
) -> Tokenizer | LlamaRtError:
    """The tokenizer; where the checkpoint's own is missing, the reason, raised when it is needed.

    A model without one still gives logits for ids.
    """
    from llama_rt.tokenizer import load_tokenizer

    source = checkpoint.tokenizer_source
    try:
        return load_tokenizer(source, checkpoint.metadata, checkpoint.kind, override)
    except (TokenizerError, MissingExtraError) as error:
        if override is not None:
            raise
        return error


def _tokens_in(kv_cache_bytes: object, needed: MemoryEstimate) -> int:
    """Tokens of cache that so many bytes hold."""
    if isinstance(kv_cache_bytes, bool) or not isinstance(kv_cache_bytes, int):
        msg = f"kv_cache_bytes: expected an int or None, got {type(kv_cache_bytes).__name__}"
        raise TypeError(msg)
    page = _native.KV_PAGE_TOKENS * needed.kv_per_token
    if kv_cache_bytes < page:
        msg = f"kv_cache_bytes: expected at least a page, {page} bytes, got {kv_cache_bytes}"
        raise ConfigError(msg)
    return kv_cache_bytes // page * _native.KV_PAGE_TOKENS
