"""Matrices of 8-bit floats (e4m3) with a scale for all, for each row, or for each tile.

Formats: DeepSeek-V3 and Qwen3 `weight_scale_inv` (tiles of `weight_block_size`), AutoFP8 and
ModelOpt `weight_scale` (one), FBGEMM (a scale for each row), compressed-tensors `float-quantized`.
In all of them `w = weight * scale`, whatever the part is called.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from llama_rt.checkpoint.computed import MakeRows, computed_record
from llama_rt.checkpoint.quantized.blocks import HALVES, Decoded
from llama_rt.checkpoint.quantized.parts import FLOATS, Floats, Module, Raw, array, floats, modules
from llama_rt.config.checked_keys import Keys, shown

__all__ = ["PARTS", "describe", "float_matrix", "read", "tile_sizes"]

PARTS = ("weight_scale_inv", "weight_scale", "input_scale", "activation_scale", "output_scale")

_SCALES = ("weight_scale_inv", "weight_scale")


def describe(keys: Keys) -> str:
    """The layout in words.

    Raises:
        ConfigError: a variant that is not read.
    """
    algorithm = keys.text("quant_algo", "FP8")
    if algorithm != "FP8":
        keys.refuse("quant_algo", f"is {shown(algorithm)}; supported: FP8")
    form = keys.text("fmt", "e4m3")
    if form not in ("e4m3", "float8_e4m3fn"):
        keys.refuse("fmt", f"is {shown(form)}; supported: e4m3")
    tile = tile_sizes(keys, "weight_block_size")
    return "FP8 (e4m3)" + (f", a scale for each {tile[0]} x {tile[1]} weights" if tile else "")


def read(raw: Raw, keys: Keys) -> Iterator[Decoded]:
    """Every quantized matrix."""
    tile = tile_sizes(keys, "weight_block_size")
    for scale in _SCALES:
        for module in modules(raw, scale):
            yield float_matrix(module, scale, tile)


def tile_sizes(keys: Keys, key: str) -> tuple[int, int] | None:
    """Rows and columns that share a scale, `[128, 128]` or `"128x128"`; None if not said."""
    value = keys.get(key)
    if value is None:
        return None
    sizes = value.split("x") if isinstance(value, str) else value
    if not isinstance(sizes, list) or len(sizes) != 2:
        keys.refuse(key, f"must be two sizes, not {shown(value)}")
    parts = [str(size) for size in sizes]
    if not all(part.isascii() and part.isdecimal() and 0 < int(part) < 2**31 for part in parts):
        keys.refuse(key, f"must be two sizes, not {shown(value)}")
    return int(parts[0]), int(parts[1])


def float_matrix(module: Module, scale: str, tile: tuple[int, int] | None) -> Decoded:
    """The matrix `weight` times its part `scale`."""
    weight = module.part("weight", ("f8_e4m3",), (-1, -1))
    rows, width = weight.shape
    found = module.find(scale)
    scales = module.part(scale, FLOATS, (-1,) * min(len(found.shape), 2))
    height, columns = _tile(module, scale, rows, width, tile)

    def prepare() -> MakeRows:
        codes = array(weight)
        factors = floats(scales).reshape(-(-rows // height), -(-width // columns))
        values = _values()

        def make(start: int, stop: int) -> Floats:
            by_row = factors[np.arange(start, stop) // height]
            decoded: Floats = values[codes[start:stop]]
            for first in range(0, width, columns):
                decoded[:, first : first + columns] *= by_row[:, first // columns, None]
            return decoded

        return make

    name = f"{module.name}.weight"
    return Decoded(computed_record(name, weight.file, "f16", (rows, width), prepare), HALVES)


def _tile(
    module: Module, scale: str, rows: int, width: int, tile: tuple[int, int] | None
) -> tuple[int, int]:
    """Rows and columns that share a scale, from the shape of the scales."""
    record = module.find(scale)
    shape = record.shape
    if all(size == 1 for size in shape):
        return max(1, rows), max(1, width)
    if shape in ((rows,), (rows, 1)):
        return 1, max(1, width)
    if tile is None or shape != (-(-rows // tile[0]), -(-width // tile[1])):
        wanted = f"[1], [{rows}, 1]" + (f" or tiles of {tile[0]} x {tile[1]}" if tile else "")
        module.refuse(record, f"has shape {list(shape)}, expected {wanted} for [{rows}, {width}]")
    return tile


def _values() -> Floats:
    """The 256 values of e4m3: exponents biased by 7, no infinity, 0x7f and 0xff are NaN."""
    codes = np.arange(256)
    exponent, mantissa = codes >> 3 & 15, codes & 7
    small = np.ldexp(mantissa.astype(np.float64), -9)
    large = np.ldexp(8.0 + mantissa, exponent - 10)
    values = np.where(exponent == 0, small, large) * np.where(codes & 128, -1.0, 1.0)
    values[codes & 127 == 127] = np.nan
    return values.astype(np.float32)
