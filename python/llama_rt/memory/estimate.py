"""Bytes that a model takes, counted from headers, and what may be asked of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from llama_rt import _native
from llama_rt.errors import CapacityError, ConfigError

if TYPE_CHECKING:
    from llama_rt.checkpoint import Checkpoint, TensorRecord
    from llama_rt.config import ModelConfig

MAX_BATCH_TOKENS = 512  # tokens of one step
MAX_SEQUENCES = 64  # requests that run as one batch; more wait
KV_DTYPES = ("f16", "bf16", "f32", "q8_0")
# Part of the free memory that the cache may take: the rest is for everything that is not counted.
_CACHE_SHARE = 0.9
# Tokens of cache that a model must at least have, when no context was asked for.
_MIN_CACHE = 512


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes that a model takes.

    Attributes:
        weights: All tensors in the format they will have.
        streamed: Bytes of weights that one generated token reads.
        kv_per_token: Cache for one token of one sequence.
        workspace: Intermediate results of one step.
        n_ctx: Tokens of context.
    """

    weights: int
    streamed: int
    kv_per_token: int
    workspace: int
    n_ctx: int

    @property
    def kv_cache(self) -> int:
        """Cache for one sequence as long as the context."""
        return self.kv_per_token * self.n_ctx

    @property
    def total(self) -> int:
        """Everything, with one sequence as long as the context."""
        return self.weights + self.kv_cache + self.workspace

    def cache_tokens(self, available: int) -> int:
        """Tokens of cache that fit after weights and workspace."""
        free = max(0, available - self.weights - self.workspace)
        return int(free * _CACHE_SHARE) // self.kv_per_token


def estimate_memory(
    checkpoint: Checkpoint,
    *,
    quantize: str | None,
    n_ctx: int,
    kv_dtype: str,
    device: str = "cpu",
    repack: str = "auto",
) -> MemoryEstimate:
    """Counts bytes from headers.

    A table that is the output matrix too is held twice: as stored for look-ups, and as the kernels
    want it, unless `repack` forbids that. `device` is "cpu" or "cuda", present or not: the cache of
    each has a layout of its own.

    Raises:
        ConfigError: `kv_dtype` is unknown or does not divide the heads.
    """
    config = checkpoint.config
    weights = streamed = 0
    tied = "output.weight" not in checkpoint.tensors
    for record in checkpoint.tensors.values():
        size = target_bytes(record, quantize, config)
        is_table = record.name == "tok_embeddings.weight"
        weights += 2 * size if is_table and tied and repack != "never" else size
        if not is_table or tied:
            streamed += size
    return MemoryEstimate(
        weights, streamed, kv_bytes(config, kv_dtype, device), workspace_bytes(config), n_ctx
    )


def kv_bytes(config: ModelConfig, kv_dtype: str, device: str) -> int:
    """Bytes of cache for one token on "cpu" or "cuda": keys and values of every layer."""
    if kv_dtype not in KV_DTYPES:
        msg = f"kv_dtype: expected one of {', '.join(KV_DTYPES)}, got {kv_dtype!r}"
        raise ConfigError(msg)
    return _native.kv_bytes_per_token(
        device, kv_dtype, config.n_layers, config.n_kv_heads, config.head_dim
    )


def workspace_bytes(config: ModelConfig) -> int:
    """Bytes of a step's intermediate results and of the logits of a full batch, all float32."""
    heads = (config.n_heads + config.n_kv_heads) * config.head_dim
    per_token = 2 * (config.dim + heads + config.ffn_dim)
    return 4 * (MAX_BATCH_TOKENS * per_token + MAX_SEQUENCES * config.vocab_size)


def resolve_context(config: ModelConfig, n_ctx: int | None) -> int:
    """Returns the context to use.

    Raises:
        CapacityError: It is more than the model can do; says why.
        ConfigError: It is not positive.
        TypeError: It is no int.
    """
    if n_ctx is None:
        return config.default_context
    if isinstance(n_ctx, bool) or not hasattr(n_ctx, "__index__"):
        msg = f"n_ctx: expected an int or None, got {type(n_ctx).__name__}"
        raise TypeError(msg)
    context = int(n_ctx)
    if context < 1:
        msg = f"n_ctx: expected at least 1, got {context}"
        raise ConfigError(msg)
    if context > config.max_context:
        reason = "was trained for"
        if config.rope_scaling.kind == "dynamic":
            reason = "does before dynamic rope scaling, which llama_rt does not go beyond, changes"
        msg = (
            f"n_ctx: {context} is more than the {config.max_context} tokens that the model {reason}"
        )
        raise CapacityError(msg)
    return context


def check_quantize(quantize: str | None) -> None:
    """Checks the name of a format to quantize to.

    Raises:
        ConfigError: It is unknown; names the choices.
    """
    if quantize is None:
        return
    from llama_rt.convert.recipes import formats  # here and below: see `find`

    if quantize not in formats():
        msg = f"quantize: {quantize!r} is unknown; expected one of {', '.join(formats())}"
        raise ConfigError(msg)


def target_dtype(record: TensorRecord, quantize: str | None, config: ModelConfig) -> str:
    """Type that a tensor will have.

    Matrices take the format's, or one of smaller blocks where their rows need it; what has no whole
    blocks of that either stays as stored.
    """
    if quantize is None or len(record.shape) != 2 or record.name.startswith("rope."):
        return record.dtype
    from llama_rt.convert.recipes import matrix_type

    return matrix_type(record.name, record.shape[1], quantize, config) or record.dtype


def check_memory(
    needed: MemoryEstimate, available: int, *, explicit: bool, quantize: str | None, kv_dtype: str
) -> int:
    """Returns how many tokens of cache fit.

    Args:
        needed: What the model takes.
        available: Bytes of memory that can be had.
        explicit: The context was asked for, so all of it must fit; else a beginning is enough.
        quantize: As asked for, for the advice.
        kv_dtype: As asked for, for the advice.

    Raises:
        CapacityError: It does not fit; says how much is missing and what would help.
    """
    tokens = needed.cache_tokens(available)
    minimum = needed.n_ctx if explicit else min(needed.n_ctx, _MIN_CACHE)
    if tokens >= minimum:
        return tokens
    wanted = needed.weights + needed.workspace + int(minimum * needed.kv_per_token / _CACHE_SHARE)
    advice = []
    if tokens > 0:
        advice.append(f"n_ctx={tokens} would fit")
    if kv_dtype != "q8_0" and explicit:
        advice.append("kv_dtype='q8_0' halves the cache")
    if quantize is None:
        advice.append("quantize='q8_0' or smaller shrinks the weights")
    msg = (
        f"not enough memory: {size(needed.weights)} of weights, "
        f"{size(minimum * needed.kv_per_token)} of cache for {minimum} tokens and "
        f"{size(needed.workspace)} of workspace, but {size(available)} are free: "
        f"{size(max(0, wanted - available))} are missing"
    )
    raise CapacityError("; ".join([msg, *advice]))


def target_bytes(record: TensorRecord, quantize: str | None, config: ModelConfig) -> int:
    """Bytes that a tensor will have."""
    dtype = target_dtype(record, quantize, config)
    if dtype == record.dtype:
        return record.nbytes
    rows, width = record.shape
    return rows * row_bytes(width, dtype)


def row_bytes(width: int, dtype: str) -> int:
    """Bytes of a row of `width` elements, which is a whole number of blocks."""
    row = dtype_table()[dtype]
    return width // row.block_elements * row.block_bytes


@lru_cache(maxsize=1)
def dtype_table() -> dict[str, _native.DTypeInfo]:
    """The native module's types by name."""
    return {row.name: row for row in _native.dtypes()}


def size(count: float) -> str:
    """Bytes for people, in binary units."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"
