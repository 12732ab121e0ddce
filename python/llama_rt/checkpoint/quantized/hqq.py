"""HQQ folders (transformers): W_q, scale, zero; the zero point is a fraction.

Format: mobiusml/hqq `hqq/core/quantize.py`, `bitpack.py`. The matrix is counted through and cut
into groups, which are the rows of W_q (axis 1) or its columns (axis 0); a word holds the rows i,
i + step, i + 2 * step ... of it, the first in the highest bits. `w = (q - zero) * scale`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llama_rt.checkpoint.computed import MakeRows, computed_record
from llama_rt.checkpoint.quantized.blocks import BLOCK, HALVES, Blocks, Decoded, Groups, MakeGroups
from llama_rt.checkpoint.quantized.parts import (
    FLOATS,
    Bytes,
    Floats,
    Module,
    Raw,
    array,
    floats,
    modules,
)
from llama_rt.config.checked_keys import Keys, shown
from llama_rt.formats.records import TensorRecord

__all__ = ["PARTS", "describe", "read"]

PARTS = (
    *("W_q", "scale", "zero", "shape", "nbits", "group_size", "axis", "packing", "view_as_float"),
    *("unpack_view_dtype", "quant_scale", "quant_zero", "compute_dtype", "offload_meta"),
    *("encoded_state_dict", "stores_quant_config", "channel_wise", "optimize", "round_zero"),
    *("bitpack",),
)

_LOSS = "the same integers, scales and minima rounded to the nearest half"
_PER_WORD = {8: 1, 4: 2, 3: 10, 2: 4, 1: 8}


def describe(keys: Keys) -> str:
    """The layout in words.

    Raises:
        ConfigError: a variant that is not read.
    """
    bits, group, axis = _settings(keys)
    return f"HQQ, {bits} bits in groups of {group} along {'rows' if axis == 1 else 'columns'}"


def read(raw: Raw, keys: Keys) -> Iterator[Decoded]:
    """Every quantized matrix."""
    bits, group, axis = _settings(keys)
    for module in modules(raw, "W_q"):
        yield _matrix(module, bits, group, axis)


def _settings(keys: Keys) -> tuple[int, int, int]:
    outer = keys.get("quant_config")
    if not isinstance(outer, dict):
        keys.refuse("quant_config", f"must be an object, not {shown(outer)}")
    inner = outer.get("weight_quant_params")
    if not isinstance(inner, dict):
        keys.refuse("quant_config", "has settings for each layer, which is not supported")
    for name in ("scale_quant_params", "zero_quant_params"):
        if outer.get(name):
            keys.refuse("quant_config", f"has {name}: scales that are quantized are not supported")
    own = Keys(inner, f"{keys.source}: weight_quant_params")
    bits, group, axis = own.integer("nbits"), own.integer("group_size"), own.integer("axis", 1)
    if bits not in _PER_WORD:
        own.refuse("nbits", f"is {bits}; supported: {', '.join(map(str, sorted(_PER_WORD)))}")
    if group < 1:
        own.refuse("group_size", f"is {group}; expected more than 0")
    if axis not in (0, 1):
        own.refuse("axis", f"is {axis}; expected 0 or 1")
    if not own.flag("bitpack", default=True):
        own.refuse("bitpack", "is false, which is not supported")
    return bits, group, axis


Index: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Packed:
    """Numbers of the matrix's groups, `[lines, length]`, several lines to a word."""

    words: npt.NDArray[np.unsignedinteger]
    bits: int

    def lines(self, index: Index) -> Bytes:
        """Some whole lines as uint8."""
        part, place = divmod(index, len(self.words))
        shift = self._shift(part)[:, None]
        numbers: Bytes = (self.words[place] >> shift & self._mask).astype(np.uint8)
        return numbers

    def at(self, line: Index, column: Index) -> Bytes:
        """Single numbers as uint8."""
        part, place = divmod(line, len(self.words))
        numbers: Bytes = (self.words[place, column] >> self._shift(part) & self._mask).astype("u1")
        return numbers

    @property
    def _mask(self) -> int:
        return (1 << self.bits) - 1

    def _shift(self, part: Index) -> npt.NDArray[np.unsignedinteger]:
        return (self.bits * (_PER_WORD[self.bits] - 1 - part)).astype(self.words.dtype)


def _matrix(module: Module, bits: int, group: int, axis: int) -> Decoded:
    record = module.part("shape", ("i64", "i32"), (2,))
    rows, width = (int(size) for size in array(record))
    if not (0 < rows < 2**31 and 0 < width < 2**31) or rows * width % group:
        module.refuse(record, f"says [{rows}, {width}], which groups of {group} do not fill")
    groups = rows * width // group
    lines, length = (groups, group) if axis == 1 else (group, groups)
    weight = module.find("W_q")  # of any type: only its bytes count
    item = 4 if bits == 3 else 1
    step = -(-lines // _PER_WORD[bits])
    if weight.nbytes != step * length * item:
        problem = f"has {weight.nbytes} bytes; {step * length * item} were expected"
        module.refuse(weight, problem)
    shape = (groups, 1) if axis == 1 else (1, groups)
    scale, zero = module.part("scale", FLOATS, shape), module.part("zero", FLOATS, shape)
    name = f"{module.name}.weight"

    def packed() -> _Packed:
        words = weight.read().view("<u4" if bits == 3 else np.uint8).reshape(step, length)
        return _Packed(words, bits)

    if axis == 1 and bits <= 4 and group % BLOCK == 0 and width % group == 0:
        source = Blocks(
            name, weight.file, "q4_1", (rows, width), group,
            lambda: _blocks(packed(), floats(scale), floats(zero), width // group),
        )  # fmt: skip
        return Decoded(TensorRecord(name, "q4_1", (rows, width), weight.file, source), _LOSS)

    def prepare() -> MakeRows:
        return _rows(packed(), floats(scale), floats(zero), width, axis)

    return Decoded(computed_record(name, weight.file, "f16", (rows, width), prepare), HALVES)


def _blocks(packed: _Packed, scale: Floats, zero: Floats, each: int) -> MakeGroups:
    """Rows of `each` groups: `w = scale * q + minimum`."""
    scales = scale.reshape(-1, each)
    minima = -zero.reshape(-1, each) * scales

    def make(start: int, stop: int) -> Groups:
        numbers = packed.lines(np.arange(start * each, stop * each)).astype(np.int16)
        return Groups(numbers.reshape(stop - start, -1), scales[start:stop], minima[start:stop])

    return make


def _rows(packed: _Packed, scale: Floats, zero: Floats, width: int, axis: int) -> MakeRows:
    length = packed.words.shape[1]

    def make(start: int, stop: int) -> Floats:
        line, column = divmod(np.arange(start * width, stop * width), length)
        group = line if axis == 1 else column
        numbers = packed.at(line, column).astype(np.float32)
        values: Floats = (numbers - zero.reshape(-1)[group]) * scale.reshape(-1)[group]
        return values.reshape(stop - start, width)

    return make
