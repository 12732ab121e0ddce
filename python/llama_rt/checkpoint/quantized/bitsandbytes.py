"""bitsandbytes folders: 4 bits by a table (nf4, fp4) with a maximum for each block, or int8 rows.

Format: bitsandbytes `functional.py` (QuantState.as_dict) and `nn/modules.py`. The table of 16
values is in the file. Elements are counted through the whole matrix; element 2i is the high half of
byte i. With nested quantization a maximum is itself a byte: `table[byte] * outer maximum + offset`.
int8: `w = weight * SCB / 127`, a maximum for each row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from llama_rt.checkpoint.computed import MakeRows, computed_record
from llama_rt.checkpoint.quantized.blocks import HALVES, Decoded, Groups, MakeGroups, grouped
from llama_rt.checkpoint.quantized.parts import Floats, Module, Raw, array, floats, int8s, modules
from llama_rt.config.checked_keys import Keys
from llama_rt.formats.records import TensorRecord

__all__ = ["PARTS", "describe", "read"]

_STATES = ("bitsandbytes__nf4", "bitsandbytes__fp4")
PARTS = (
    *("weight.absmax", "weight.quant_map", "weight.nested_absmax", "weight.nested_quant_map"),
    *(f"weight.quant_state.{state}" for state in _STATES),
    *("SCB", "weight_format"),
)

_MAX_STATE = 4096  # bytes of a state's JSON; real ones have some 200


def describe(keys: Keys) -> str:
    """The layout in words."""
    if keys.flag("load_in_8bit") or keys.flag("_load_in_8bit"):
        return "bitsandbytes int8"
    nested = ", nested" if keys.flag("bnb_4bit_use_double_quant") else ""
    return f"bitsandbytes {keys.text('bnb_4bit_quant_type', 'fp4')[:20]}{nested}"


def read(raw: Raw, _keys: Keys) -> Iterator[Decoded]:
    """Every quantized matrix."""
    for module in modules(raw, "weight.absmax"):
        yield _four_bits(module)
    for module in modules(raw, "SCB"):
        yield _int8(module)


def _four_bits(module: Module) -> Decoded:
    state = _state(module)
    rows, width, block = _sizes(module, state)
    weight = module.find("weight")  # of any type: only its bytes count
    if weight.nbytes * 2 != rows * width:
        module.refuse(weight, f"has {weight.nbytes} bytes; [{rows}, {width}] needs half its size")
    blocks = -(-rows * width // block)
    table = module.part("weight.quant_map", ("f32",), (16,))
    nested = module.has("weight.nested_absmax")
    maxima = module.part("weight.absmax", ("u8",) if nested else ("f32",), (blocks,))
    inner = _nested(module, state, blocks) if nested else None

    def prepare() -> MakeRows:
        packed, values = weight.read(), floats(table)
        peaks = floats(maxima) if inner is None else _unnested(maxima, *inner)

        def make(start: int, stop: int) -> Floats:
            codes = packed[start * width // 2 : stop * width // 2]
            both = np.stack([codes >> 4, codes & 15], axis=1).reshape(-1)
            decoded: Floats = values[both]
            decoded *= peaks[np.arange(start * width, stop * width) // block]
            return decoded.reshape(stop - start, width)

        return make

    name = f"{module.name}.weight"
    return Decoded(computed_record(name, weight.file, "f16", (rows, width), prepare), HALVES)


def _state(module: Module) -> tuple[TensorRecord, dict[str, object]]:
    for state in _STATES:
        if module.has(f"weight.quant_state.{state}"):
            record = module.part(f"weight.quant_state.{state}", ("u8",), (-1,))
            break
    else:
        record = module.part(f"weight.quant_state.{_STATES[0]}", ("u8",), (-1,))
    try:
        parsed = json.loads(record.read()[:_MAX_STATE].tobytes())
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        module.refuse(record, "is not a JSON object")
    return record, parsed


def _sizes(module: Module, state: tuple[TensorRecord, dict[str, object]]) -> tuple[int, int, int]:
    """Rows, columns, and elements that share a maximum."""
    record, values = state
    shape = values.get("shape")
    sizes = [*shape, values.get("blocksize")] if isinstance(shape, list) else []
    if len(sizes) != 3 or not all(_is_size(size) for size in sizes):
        module.refuse(record, "does not say the matrix's two sizes and blocksize")
    rows, width, block = sizes
    if width % 2:
        module.refuse(record, f"says rows of {width}; an even width was expected")
    return rows, width, block


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def _nested(
    module: Module, state: tuple[TensorRecord, dict[str, object]], blocks: int
) -> tuple[TensorRecord, TensorRecord, int, float]:
    """What the maxima are made from: table, outer maxima, maxima that share one, offset."""
    record, values = state
    size, offset = values.get("nested_blocksize"), values.get("nested_offset", 0.0)
    if not isinstance(size, int) or not _is_size(size) or not isinstance(offset, (int, float)):
        module.refuse(record, "does not say nested_blocksize and nested_offset")
    table = module.part("weight.nested_quant_map", ("f32",), (256,))
    outer = module.part("weight.nested_absmax", ("f32",), (-(-blocks // size),))
    return table, outer, size, float(offset)


def _unnested(
    maxima: TensorRecord, table: TensorRecord, outer: TensorRecord, size: int, offset: float
) -> Floats:
    codes = array(maxima)
    peaks: Floats = floats(table)[codes]
    peaks *= floats(outer)[np.arange(len(codes)) // size]
    peaks += np.float32(offset)
    return peaks


def _int8(module: Module) -> Decoded:
    weight = module.part("weight", ("i8",), (-1, -1))
    rows, width = weight.shape
    maxima = module.part("SCB", ("f32",), (rows,))
    if module.has("weight_format"):
        form = module.find("weight_format")
        if form.nbytes != 1 or int(form.read()[0]) != 0:
            module.refuse(form, "is not 0 (rows): weights permuted for one GPU kernel")

    def prepare() -> MakeGroups:
        numbers, scales = int8s(weight), floats(maxima).reshape(-1, 1) / np.float32(127)
        return lambda start, stop: Groups(numbers[start:stop], scales[start:stop])

    return grouped(
        f"{module.name}.weight",
        weight.file,
        (rows, width),
        prepare,
        limits=(-128, 127),
        group=width,
        scales="f32",
    )
