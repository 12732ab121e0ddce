"""Quantization recipes: formats by name, and the type that each matrix has in them.

The name of an element type gives it to every matrix. A recipe, such as `q4_k_m`, gives more bits to
the matrices that lose most by rounding, by the rules of llama.cpp's quantizer
(`src/llama-quant.cpp`, `llama_tensor_get_type_impl`): its file has the same type for each tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

from llama_rt.config import ModelConfig
from llama_rt.formats.dtypes import STORED

__all__ = ["formats", "main_type", "matrix_type", "stored_file_type"]


@dataclass(frozen=True, slots=True)
class _Recipe:
    main: str
    file_type: int  # llama.cpp `llama.h`, `llama_ftype`


_RECIPES = {
    "q2_k_m": _Recipe("q2_k", 10),  # llama.cpp says Q2_K alone
    "q3_k_s": _Recipe("q3_k", 11),
    "q3_k_m": _Recipe("q3_k", 12),
    "q3_k_l": _Recipe("q3_k", 13),
    "q4_k_s": _Recipe("q4_k", 14),
    "q4_k_m": _Recipe("q4_k", 15),
    "q5_k_s": _Recipe("q5_k", 16),
    "q5_k_m": _Recipe("q5_k", 17),
}
_OUTPUT = "q6_k"
# What rows that are no whole blocks of 256 become.
_SMALLER_BLOCKS = {"q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0",
                   "iq4_xs": "iq4_nl"}  # fmt: skip


def formats() -> tuple[str, ...]:
    """Every name, types first."""
    return (*(row.name for row in STORED.values() if row.runs and row.written), *_RECIPES)


def main_type(format: str) -> str:
    """The type that most matrices have in a format."""
    return _RECIPES[format].main if format in _RECIPES else format


def stored_file_type(format: str) -> int:
    """`general.file_type` of a GGUF file in a format."""
    return _RECIPES[format].file_type if format in _RECIPES else STORED[format].file_type


def matrix_type(name: str, width: int, format: str, config: ModelConfig) -> str | None:
    """The type of a matrix in a format.

    Args:
        name: canonical name.
        width: elements of a row.
        format: one of `formats()`.
        config: of the model; layers and heads decide in recipes.

    Returns:
        The type, or one of smaller blocks where rows are no whole blocks of it; None where rows are
        no whole blocks of that either.
    """
    dtype = _recipe_type(name, format, config) if format in _RECIPES else format
    if width % STORED[dtype].block_elements:
        dtype = _SMALLER_BLOCKS.get(dtype, dtype)
    return None if width % STORED[dtype].block_elements else dtype


def _recipe_type(name: str, format: str, config: ModelConfig) -> str:
    if name == "output.weight" or (name == "tok_embeddings.weight" and config.tie_embeddings):
        return _OUTPUT
    main = _RECIPES[format].main
    parts = name.split(".")
    if parts[0] != "layers":
        return main
    layer, role = int(parts[1]), parts[3]
    if role == "wv":
        return _value_type(format, layer, config) or main
    if role == "w2":
        return _down_type(format, layer, config.n_layers) or main
    if role == "wo":
        return {"q2_k_m": "q3_k", "q3_k_m": "q4_k", "q3_k_l": "q5_k"}.get(format, main)
    return main


def _value_type(format: str, layer: int, config: ModelConfig) -> str | None:
    """Of the value projection; small where many heads share one of keys and values."""
    sharing = config.n_heads // config.n_kv_heads
    chosen: str | None = None
    if format == "q2_k_m":
        chosen = "q4_k" if sharing >= 4 else "q3_k"
    elif format == "q3_k_m":
        chosen = "q5_k" if layer < 2 else "q4_k"
    elif format == "q3_k_l" or (format == "q4_k_s" and layer < 4):
        chosen = "q5_k"
    elif format in ("q4_k_m", "q5_k_m") and _takes_more(layer, config.n_layers):
        chosen = "q6_k"
    # LLaMA 2 70B, whose value projections are an eighth of the others.
    large = config.n_layers == 80 and sharing > 1
    return "q5_k" if large and (chosen or main_type(format)) in ("q3_k", "q4_k") else chosen


def _down_type(format: str, layer: int, layers: int) -> str | None:
    """Of the down projection."""
    if format in ("q4_k_m", "q5_k_m"):
        return "q6_k" if _takes_more(layer, layers) else None
    if format == "q3_k_m":
        return "q5_k" if layer < layers // 16 else "q4_k"
    if format == "q4_k_s":
        return "q5_k" if layer < layers // 8 else None
    return {"q2_k_m": "q3_k", "q3_k_l": "q5_k"}.get(format)


def _takes_more(layer: int, layers: int) -> bool:
    """The first and the last eighth of the layers, and every third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
