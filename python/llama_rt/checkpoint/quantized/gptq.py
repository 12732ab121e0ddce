"""GPTQ folders (AutoGPTQ, GPTQModel): qweight, qzeros, scales, g_idx.

Format: AutoGPTQ `nn_modules/qlinear/qlinear_cuda_old.py`, GPTQModel `nn_modules/qlinear/`. Numbers
of a column lie one after the other from the lowest bit of its 32-bit words on, 3 bits included; the
zero points of a group lie so along the columns. `gptq` (v1) stores each zero point less one,
`gptq_v2` as it is. `g_idx` says which group an input belongs to.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from llama_rt.checkpoint.quantized.bits import packed_along_columns, row_bytes, unpack
from llama_rt.checkpoint.quantized.blocks import Decoded, Groups, MakeGroups, centred, grouped
from llama_rt.checkpoint.quantized.parts import (
    FLOATS,
    Bytes,
    Module,
    Raw,
    Whole,
    floats,
    modules,
    words,
)
from llama_rt.config.checked_keys import Keys, shown
from llama_rt.formats.records import TensorRecord

__all__ = ["PARTS", "describe", "read"]

PARTS = ("qweight", "qzeros", "scales", "g_idx")


def describe(keys: Keys) -> str:
    """The layout in words.

    Raises:
        ConfigError: a variant that is not read.
    """
    bits, group, _ = _settings(keys)
    width = "whole rows" if group < 0 else f"groups of {group}"
    return f"GPTQ, {bits} bits in {width}" + (", act-order" if keys.flag("desc_act") else "")


def read(raw: Raw, keys: Keys) -> Iterator[Decoded]:
    """Every quantized matrix."""
    bits, group, offset = _settings(keys)
    for module in modules(raw, "qweight"):
        yield _matrix(module, bits, group, offset, symmetric=keys.flag("sym"))


def _settings(keys: Keys) -> tuple[int, int, int]:
    """Bits, group size, and what is added to a stored zero point."""
    bits, group = keys.integer("bits"), keys.integer("group_size", -1)
    if bits not in (2, 3, 4, 8):
        keys.refuse("bits", f"is {bits}; supported: 2, 3, 4, 8")
    if group == 0 or group < -1:
        keys.refuse("group_size", f"is {group}; expected -1 or more than 0")
    form = keys.text("checkpoint_format", "gptq")
    if keys.flag("is_marlin_format"):
        form = "marlin"
    if form not in ("gptq", "gptq_v2"):
        keys.refuse(
            "checkpoint_format",
            f"is {shown(form)}, weights permuted for one GPU kernel; supported: gptq, gptq_v2",
        )
    dynamic = keys.get("dynamic")
    if isinstance(dynamic, dict) and any(not str(key).startswith("-") for key in dynamic):
        keys.refuse("dynamic", "gives some layers other bits, which is not supported")
    return bits, group, 1 if form == "gptq" else 0


def _matrix(module: Module, bits: int, size: int, offset: int, *, symmetric: bool) -> Decoded:
    weight = module.part("qweight", ("i32",), (-1, -1))
    columns = weight.shape[1]
    width = weight.shape[0] * 32 // bits
    group = width if size < 0 else size
    groups = -(-width // group) if group else 0
    scales = module.part("scales", FLOATS, (groups, columns))
    zeros = module.part("qzeros", ("i32",), (groups, columns * bits // 32))
    order = _order(module, width, group, groups)
    middle = 1 << (bits - 1)
    limits = (-middle, middle - 1)
    if not symmetric or not (_zeros(zeros, bits, columns, offset) == middle).all():
        limits = (1 - 2 * middle, 2 * middle - 1)

    def prepare() -> MakeGroups:
        packed = words(weight)
        zero = np.ascontiguousarray(_zeros(zeros, bits, columns, offset).T)
        scale = np.ascontiguousarray(floats(scales).T)

        def make(start: int, stop: int) -> Groups:
            numbers = unpack(packed_along_columns(packed, start, stop), bits, width)
            return Groups(centred(numbers, zero[start:stop], group, order), scale[start:stop])

        return make

    return grouped(
        f"{module.name}.weight",
        weight.file,
        (columns, width),
        prepare,
        limits=limits,
        group=group,
        scales=scales.dtype,
        order=order,
    )


def _zeros(record: TensorRecord, bits: int, columns: int, offset: int) -> Bytes:
    """Zero points uint8 `[groups, columns]`; the sum wraps, as in the kernels."""
    stored = unpack(row_bytes(words(record)), bits, columns)
    zeros: Bytes = (stored + np.uint8(offset)) & np.uint8((1 << bits) - 1)
    return zeros


def _order(module: Module, width: int, group: int, groups: int) -> Whole | None:
    """The group of each input, or None where groups are neighbours."""
    if not module.has("g_idx"):
        return None
    record = module.part("g_idx", ("i32",), (width,))
    order = words(record)
    if not width or np.array_equal(order, np.arange(width) // group):
        return None
    if int(order.min()) < 0 or int(order.max()) >= groups:
        module.refuse(record, f"names group {int(order.max())}; there are {groups}")
    return order
