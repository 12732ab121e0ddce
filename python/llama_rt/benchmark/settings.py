"""What to measure, and what was measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from llama_rt.errors import ConfigError

__all__ = ["Result", "Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What to measure.

    Attributes:
        prompt: tokens of the prompt whose reading is timed; 0 leaves that out.
        generate: tokens that each sequence decodes; 0 leaves that out.
        context: tokens in each sequence's cache before decoding starts.
        batch: sequences that decode together.
        repeat: how often each figure is taken.
        profile: also take the time of each op.
        lora_rank: run with a random LoRA of this rank on all seven linears of each layer; 0: none.
        llama_adapter: run with a random LLaMA-Adapter, whose prefixes have this length; 0: none.
        device: as in `Llama.load`; so are the rest.
        isa: ISA level.
        threads: threads.
        quantize: format to re-encode matrices to.
        repack: weight layout.
        kv_dtype: element type of the cache.
    """

    prompt: int = 512
    generate: int = 64
    context: int = 0
    batch: int = 1
    repeat: int = 3
    profile: bool = False
    lora_rank: int = 0
    llama_adapter: int = 0
    device: str = "auto"
    isa: str | None = None
    threads: int | None = None
    quantize: str | None = None
    repack: Literal["auto", "never", "always"] = "auto"
    kv_dtype: str = "f16"

    def __post_init__(self) -> None:
        """Checks the counts."""
        for name, minimum in (
            ("prompt", 0), ("generate", 0), ("context", 0), ("batch", 1), ("repeat", 1),
            ("lora_rank", 0), ("llama_adapter", 0),
        ):  # fmt: skip
            if getattr(self, name) < minimum:
                msg = f"{name}: expected {minimum} or more, got {getattr(self, name)}"
                raise ConfigError(msg)


@dataclass(slots=True)
class Result:
    """What was measured; tokens per second hold one entry per repeat.

    Attributes:
        device: where the model ran.
        isa: ISA level that ran it.
        threads: threads that ran it.
        format: the type that most bytes of the weights are stored in.
        weight_bytes: bytes of weights that one decoded token reads.
        load_s: seconds from the first tensor (made, or read from its file) to the finished model.
        peak_rss_bytes: maximum of the process's memory from loading on. Pages of mapped files
            count.
        read_bytes_s: bytes per second that the same threads read from memory.
        prefill_tok_s: prompt tokens per second.
        decode_tok_s: generated tokens per second, all sequences of the batch together.
        plain_tok_s: the same without the adapters, each taken right after its counterpart; empty
            where there are none.
        profile: seconds of each op in one prefill and one decode, if asked for.
    """

    device: str
    isa: str
    threads: int
    format: str
    weight_bytes: int
    load_s: float
    peak_rss_bytes: int
    read_bytes_s: float
    prefill_tok_s: list[float] = field(default_factory=list)
    decode_tok_s: list[float] = field(default_factory=list)
    plain_tok_s: list[float] = field(default_factory=list)
    profile: dict[str, dict[str, float]] = field(default_factory=dict)
