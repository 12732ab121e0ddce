"""An opened checkpoint: a configuration and the tensors that it asks for, under canonical names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llama_rt.config import ModelConfig
from llama_rt.formats.dtypes import STORED
from llama_rt.formats.records import TensorRecord

__all__ = ["Checkpoint"]


@dataclass
class Checkpoint:
    """An opened checkpoint: configuration and verified tensors, no bytes read yet.

    Attributes:
        path: the folder or file that was opened.
        kind: the format.
        config: sizes and rules.
        tensors: by canonical name, in streaming order; shapes agree with `config`.
        metadata: GGUF keys, or the parsed config.json or params.json.
        files: the weight files, in order.
        quantization: what a quantized folder's layout is and what its matrices became; else "".
    """

    path: Path
    kind: Literal["meta", "hf", "gguf", "safetensors"]
    config: ModelConfig
    tensors: Mapping[str, TensorRecord]
    metadata: Mapping[str, object]
    files: tuple[Path, ...] = ()
    quantization: str = ""

    @property
    def nbytes(self) -> int:
        """Stored bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def tokenizer_source(self) -> Path:
        """Where the tokenizer's files are: the folder, or the GGUF file itself."""
        return self.path.parent if self.kind == "safetensors" else self.path

    @property
    def parameters(self) -> int:
        """Number of weights, the embedding counted once when it is tied."""
        total = 0
        for tensor in self.tensors.values():
            if tensor.name != "rope.divisors":
                row = STORED[tensor.dtype]
                total += tensor.nbytes // row.block_bytes * row.block_elements
        return total
