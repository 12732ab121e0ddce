"""The native module: owns memory and arithmetic, knows no file format and no text.

Raises the classes of `llama_rt.errors`; releases the GIL around all long work.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, final

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

@final
class DTypeInfo:
    """One row of the dtype table."""

    @property
    def name(self) -> str: ...
    @property
    def block_elements(self) -> int: ...
    @property
    def block_bytes(self) -> int: ...
    @property
    def gguf_id(self) -> int: ...
    @property
    def encodable(self) -> bool: ...

def dtypes() -> list[DTypeInfo]:
    """Every element and block type, in table order."""

def decode(data: Buffer, dtype: str, count: int) -> npt.NDArray[np.float32]:
    """`count` elements of stored `data` as float32 `[count]`."""

def encode(values: npt.NDArray[np.float32], dtype: str, *, isa: str = "") -> npt.NDArray[np.uint8]:
    """Float32 `[..., k]` rounded to `dtype`, as bytes row by row; `k` is whole blocks.

    The bytes are the same on every ISA level `isa`.
    """

def requantize(
    data: Buffer,
    dtype: str,
    k: int,
    target: str,
    *,
    order: npt.NDArray[np.int64] | None = None,
    importance: npt.NDArray[np.float32] | None = None,
    threads: int = 0,
) -> npt.NDArray[np.uint8]:
    """Stored rows of `k` elements in another type, as bytes row by row.

    `order` names the source row of each new row. The bytes do not depend on `threads`.
    """

@final
class CpuInfo:
    """What the processor and the container allow."""

    @property
    def tiers(self) -> list[str]:
        """Usable ISA levels, lowest first: in this build, supported, computing what scalar does."""
    @property
    def missing_levels(self) -> list[str]:
        """Levels that the processor has and that were left out of this build."""
    @property
    def unused_tiers(self) -> dict[str, str]:
        """Levels that the processor has and that are not used, with the reason."""
    @property
    def cores(self) -> int:
        """CPUs in the affinity mask."""
    @property
    def physical_cores(self) -> int:
        """Those, with the threads of one core counted once."""
    @property
    def quota(self) -> float:
        """CPUs' worth of time the container may use; 0 means no limit."""
    @property
    def default_threads(self) -> int: ...
    @property
    def model(self) -> str:
        """The processor's brand string."""

def cpu_info() -> CpuInfo: ...

KV_PAGE_TOKENS: int
"""Positions of a page of the KV cache, on every backend."""

def kv_bytes_per_token(
    device: str, kv_dtype: str, layers: int, kv_heads: int, head_dim: int
) -> int:
    """Bytes of cache as a "cpu" or "cuda" backend lays it out, whether or not there is one."""

def isa_names() -> list[str]:
    """Every ISA level of this architecture, lowest first, in this build or not."""

def cgroup_quota(root: str) -> float:
    """CPUs' worth of time by the control groups under the file tree `root` (`""`: the system's).

    Looks at `root/proc/self/{cgroup,mountinfo}` and the mounts they name, v1 and v2, and takes the
    smallest limit on the way up; 0 means no limit.
    """

def cgroup_memory_limit(root: str) -> int | None:
    """The tightest memory limit in bytes; None: no limit."""

def cgroup_available_memory(root: str) -> int | None:
    """Bytes left below the tightest memory limit, file cache counted as free; None: no limit."""

def available_memory() -> int:
    """Bytes that may be allocated and touched now, by hardware and control groups."""

def advise_dontneed(data: Buffer) -> None:
    """Unmaps the whole pages of contiguous `data` if it is in a shared mapping of a file.

    Nothing is lost: they are read again when touched. Other memory is left as it is.
    """

def pool_size() -> int:
    """Threads the pool has now, the caller included."""

def pool_split(
    threads: int,
    chunks: int,
    *,
    dynamic: bool = ...,
    repeats: int = ...,
    fail_at: int = ...,
) -> list[int]:
    """For tests: the worker that did each chunk last; a worker that meets `fail_at` raises."""

@final
class CudaDevice:
    """A device that the CUDA driver shows."""

    @property
    def name(self) -> str: ...
    @property
    def capability(self) -> tuple[int, int]:
        """Compute capability, major and minor."""
    @property
    def multiprocessors(self) -> int: ...
    @property
    def memory_bytes(self) -> int: ...
    @property
    def free_bytes(self) -> int:
        """0 where the device cannot be used."""
    @property
    def bandwidth(self) -> float:
        """Bytes per second that the memory's clock and width allow."""
    @property
    def multiply_rate(self) -> float:
        """Multiply-adds per second of the tensor cores in bf16, as clocked."""
    @property
    def reason(self) -> str:
        """Why it cannot be used; empty: it can."""

def cuda_devices() -> tuple[list[CudaDevice], str]:
    """All devices, and why there are none (empty: there are some)."""

def read_bandwidth(threads: int, buffer_bytes: int = ..., seconds: float = ...) -> float:
    """Bytes per second read from a buffer of `buffer_bytes` (at least 2 GiB for memory)."""

def cuda_read_bandwidth(index: int, buffer_bytes: int = ..., seconds: float = ...) -> float:
    """Bytes per second that a whole CUDA device reads from its memory.

    Raises:
        BackendUnavailable: the device cannot be used; says why.
        CapacityError: the buffer does not fit.
    """

@final
class Backend:
    """A device that holds weights and computes."""

    @property
    def name(self) -> str:
        """`"cpu"` or `"cuda:N"`."""
    @property
    def isa(self) -> str:
        """The ISA level in use."""
    @property
    def threads(self) -> int:
        """Threads of the host that it uses, or that may prepare data for it."""

def open_backend(
    device: str = "auto",
    *,
    isa: str | None = None,
    threads: int | None = None,
    reproducible: bool = False,
) -> Backend:
    """Opens `"cpu"`, `"cuda"`, `"cuda:N"` or `"auto"`.

    `isa`: no ISA level above it is used.
    `reproducible`: a token's bits do not depend on how many others it is computed with.

    Raises:
        BackendUnavailable: the device was named and cannot be used; says why.
        ConfigError: the name is unknown.
    """

@final
class CancelFlag:
    """Checked between layers; may be set from any thread."""

    def __init__(self) -> None: ...
    def set(self) -> None: ...
    def clear(self) -> None: ...
    @property
    def is_set(self) -> bool: ...

@final
class Model:
    """Immutable weights on one backend, added tensor by tensor, then finished."""

    def __init__(
        self,
        backend: Backend,
        *,
        dim: int,
        n_layers: int,
        n_heads: int,
        n_kv_heads: int,
        head_dim: int,
        ffn_dim: int,
        vocab_size: int,
        norm_eps: float,
        rope_theta: float = ...,
        rope_style: Literal["interleaved", "halves"] = ...,
        rope_scaling: Literal["none", "linear", "llama3", "yarn"] = ...,
        rope_factor: float = ...,
        rope_low_freq_factor: float = ...,
        rope_high_freq_factor: float = ...,
        rope_original_context: int = ...,
        rope_beta_fast: float = ...,
        rope_beta_slow: float = ...,
        rope_attention_factor: float = ...,
        rope_truncate: bool = ...,
        sliding_window: int = ...,
        qk_norm: bool = ...,
        repack: Literal["auto", "never", "always"] = ...,
    ) -> None: ...
    def add(
        self,
        name: str,
        data: Buffer,
        dtype: str,
        shape: Sequence[int],
    ) -> None:
        """Takes one tensor under its canonical name (`rope.divisors` among them).

        The buffer is kept alive as long as its bytes are used in place; packed tensors copy it.

        Raises:
            ShapeError: the shape differs from what the configuration asks, or from the byte count.
            CheckpointError: the name is unknown or came twice.
        """
    def add_pieces(
        self,
        name: str,
        pool: Buffer,
        starts: Sequence[int],
        dtype: str,
        shape: Sequence[int],
    ) -> None:
        """Takes a matrix that is made in the backend's memory, of pieces of a small pool.

        Each piece begins at one of `starts`, counted in blocks of `dtype`, and goes to the pool's
        end; the last goes as far as the matrix does. A pool is uploaded once and kept until
        `finish`.

        Raises:
            ShapeError: the shape differs from what the configuration asks, a piece begins outside
                the pool, or the pieces are too short.
            CheckpointError: the name is unknown or came twice.
        """
    def finish(self) -> None:
        """Ties `output.weight` to the embedding when it never came; checks that all are there."""
    @property
    def weight_bytes(self) -> int:
        """Bytes held by weights, packed copies included."""
    @property
    def streamed_bytes(self) -> int:
        """Bytes of stored weights that one decoded token reads (embedding row not counted)."""

@final
class Adapter:
    """What an adapter adds to one finished model; arrays are float32, in the base's rotary order.

    `slot` is one of wq, wk, wv, wo, w1, w2, w3. Shapes are checked against the model.
    """

    def __init__(self, model: Model) -> None: ...
    def add_lora(
        self,
        layer: int,
        slot: str,
        a: npt.NDArray[np.float32],
        b: npt.NDArray[np.float32],
        scale: float = ...,
    ) -> None:
        """`y += scale * b (a x)`: a `[rank, in]`, b `[out, rank]`, scale alpha / rank.

        Both are kept as f16 (times a power of two) with weights of fewer than 32 bits.
        """
    def add_output_lora(
        self, a: npt.NDArray[np.float32], b: npt.NDArray[np.float32], scale: float = ...
    ) -> None:
        """The same for the output: a `[rank, dim]`, b `[vocab, rank]`."""
    def add_embedding_lora(
        self, a: npt.NDArray[np.float32], b: npt.NDArray[np.float32], scale: float = ...
    ) -> None:
        """`x += scale * b a[token]`: a `[vocab, rank]`, b `[dim, rank]`."""
    def add_input_scale(self, layer: int, slot: str, scale: npt.NDArray[np.float32]) -> None:
        """`y = W (x * scale)`, scale `[in]`."""
    def add_bias(self, layer: int, slot: str, bias: npt.NDArray[np.float32]) -> None: ...
    def replace_norm(
        self,
        layer: int,
        norm: Literal["attention_norm", "ffn_norm"],
        gain: npt.NDArray[np.float32],
    ) -> None: ...
    def add_prefix(
        self, layer: int, prefix: npt.NDArray[np.float32], gate: npt.NDArray[np.float32]
    ) -> None:
        """Gated prefix attention: prefix `[length, dim]`, gate `[heads]` as it multiplies.

        Scales and biases of wk and wv that act on the prefix must have been added before.
        """
    @property
    def bytes(self) -> int: ...

@final
class BytePairEncoder:
    """Words to token ids by merges; threads may share one."""

    def __init__(
        self,
        tokens: list[bytes],
        merges: npt.NDArray[np.int32] | None,
        *,
        whole_words: bool,
    ) -> None:
        """Takes a vocabulary.

        `tokens` are the bytes by id, b"" where no text becomes the id. `merges` `[m, 3]` are the
        ids left, right and joined, by rank; None: a token's id is its rank, and every way to cut
        it is a merge (tiktoken). With `whole_words` a word that is a token is that token.
        """

    def encode(self, words: list[str]) -> list[int]:
        """The ids of one word after the other; bytes without a token are left out."""

@final
class Sampler:
    """One request's sampling state: settings, random counter, token history."""

    def __init__(
        self,
        vocab_size: int,
        *,
        temperature: float = ...,
        top_k: int = ...,
        top_p: float = ...,
        min_p: float = ...,
        typical_p: float = ...,
        repetition_penalty: float = ...,
        presence_penalty: float = ...,
        frequency_penalty: float = ...,
        logit_bias: Mapping[int, float] = ...,
        seed: int = ...,
        stop_ids: Sequence[int] = ...,
        logprobs: int = ...,
        isa: str = ...,
    ) -> None:
        """`logprobs`: -1 none, 0 the chosen token's, n also the n most likely.

        `isa`: highest ISA level of its passes over the vocabulary; the tokens are the same on all.
        """
    def observe(self, tokens: npt.NDArray[np.int32]) -> None:
        """Adds prompt tokens to the history that the repetition penalty looks at."""
    def sample(
        self, logits: npt.NDArray[np.float32]
    ) -> tuple[int, bool, float, list[tuple[int, float]]]:
        """Samples from `logits` `[vocab]` and adds the token to the history.

        Returns:
            The token, whether it is a stop id, its log-probability under the unmodified logits
            (0 unless asked for), and the most likely tokens with theirs.

        Raises:
            ShapeError: another length.
            LlamaRtError: no token can be sampled.
        """

@final
class Sampled:
    """What one sequence gained in a call: tokens in order, and their log-probabilities if asked."""

    @property
    def tokens(self) -> list[int]: ...
    @property
    def stopped(self) -> bool:
        """The last token is one of the sampler's stop ids."""
    @property
    def failure(self) -> str:
        """Why no further token could be sampled, which concerns no other sequence; else empty."""
    @property
    def logprobs(self) -> list[float]: ...
    @property
    def top_logprobs(self) -> list[list[tuple[int, float]]]: ...

@final
class Runner:
    """One model with a cache and a workspace; one caller at a time."""

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int,
        kv_dtype: str = ...,
        max_batch_tokens: int = ...,
        cache_tokens: int = ...,
    ) -> None:
        """`n_ctx`: longest sequence; `cache_tokens`: of all together (0: one sequence's)."""
    def create(self) -> int: ...
    def fork(self, sequence: int, length: int) -> int:
        """A new sequence that shares the first `length` tokens."""
    def truncate(self, sequence: int, length: int) -> None: ...
    def release(self, sequence: int) -> None: ...
    def length(self, sequence: int) -> int: ...
    def forward(
        self,
        sequences: Sequence[int],
        tokens: Sequence[npt.NDArray[np.int32]],
        *,
        outputs: Literal["none", "last", "all"] = ...,
        states: bool = ...,
        cancel: CancelFlag | None = ...,
        adapters: Sequence[Sequence[tuple[Adapter, float]]] = ...,
    ) -> npt.NDArray[np.float32]:
        """Appends `tokens[i]` to `sequences[i]`; float32 `[r, vocab]`, or `[r, dim]` normed states.

        Raises:
            CapacityError: a sequence would outgrow its context, or the cache is full; nothing was
                changed.
            CancelledError: the flag was set; every sequence is as before.
        """
    def step(
        self,
        sequences: Sequence[int],
        tokens: Sequence[npt.NDArray[np.int32]],
        samplers: Sequence[Sampler | None],
        *,
        cancel: CancelFlag | None = ...,
        adapters: Sequence[Sequence[tuple[Adapter, float]]] = ...,
    ) -> list[Sampled]:
        """One mixed batch: appends and, where a sampler is given, samples from the last row.

        A sequence without a sampler (a prompt's chunk that is not its last) gets an empty
        `Sampled`.
        """
    def decode(
        self,
        sequences: Sequence[int],
        tokens: Sequence[int],
        samplers: Sequence[Sampler],
        *,
        steps: int,
        max_seconds: float = ...,
        cancel: CancelFlag | None = ...,
        adapters: Sequence[Sequence[tuple[Adapter, float]]] = ...,
    ) -> list[Sampled]:
        """The native loop: feeds each sequence its token, samples, feeds that, up to `steps` times.

        Ends early, after a whole step, when any sequence stopped or failed, the time is over, or
        the flag is set (no error then: what was sampled is returned). The last token is not
        yet in the cache, unless the sampling after it failed.
        """
    def cache_pages(self) -> tuple[int, int]:
        """Pages of the cache in use (a shared one counts once), and all of them."""
    def memory(self) -> dict[str, int]:
        """Bytes: `weights`, `kv_cache` (committed), `kv_cache_max`, `workspace`."""
    def profile(self, enable: bool) -> dict[str, float]:
        """Seconds per op since the last call; switches measuring on or off."""

# Single ops, for tests: float32 in and out, contiguous.
def op_matmul(
    backend: Backend,
    x: npt.NDArray[np.float32],
    weight: Buffer,
    dtype: str,
    rows: int,
    *,
    bias: npt.NDArray[np.float32] | None = ...,
    repack: Literal["auto", "never", "always"] = ...,
) -> npt.NDArray[np.float32]:
    """`x` `[n, k]` times the stored matrix `[rows, k]`, transposed: `[n, rows]`."""

def op_embed(
    backend: Backend,
    table: Buffer,
    dtype: str,
    rows: int,
    dim: int,
    tokens: npt.NDArray[np.int32],
) -> npt.NDArray[np.float32]: ...
def op_rms_norm(
    backend: Backend, x: npt.NDArray[np.float32], gain: npt.NDArray[np.float32], eps: float
) -> npt.NDArray[np.float32]: ...
def op_swiglu(
    backend: Backend, gate: npt.NDArray[np.float32], up: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]: ...
def op_rope(
    backend: Backend,
    x: npt.NDArray[np.float32],
    positions: npt.NDArray[np.int32],
    cos: npt.NDArray[np.float32],
    sin: npt.NDArray[np.float32],
    style: Literal["interleaved", "halves"],
) -> npt.NDArray[np.float32]:
    """`x` `[n, heads, e]`; `cos`, `sin` `[positions, e/2]`."""

def op_attention(
    backend: Backend,
    q: npt.NDArray[np.float32],
    k: npt.NDArray[np.float32],
    v: npt.NDArray[np.float32],
    *,
    kv_dtype: str,
    window: int = ...,
) -> npt.NDArray[np.float32]:
    """One sequence: `q` `[n, h, e]` are the last n of t positions, `k`, `v` `[t, g, e]`."""

def rope_table(
    model_options: Mapping[str, object], positions: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Cosines and sines `[positions, e/2]` for the rope options of `Model`."""
