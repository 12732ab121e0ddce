"""AWQ folders (AutoAWQ): qweight, qzeros, scales, 4 bits, in the layouts of its two kernels.

Format: AutoAWQ `awq/modules/linear/gemm.py` and `gemv.py`. `gemm` packs eight neighbouring outputs
in a word, in the order 0 2 4 6 1 3 5 7; `gemv` packs eight neighbouring inputs in their order, and
pads each row of zero points and scales.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from llama_rt.checkpoint.quantized.bits import row_bytes, unpack
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

__all__ = ["PARTS", "describe", "read"]

PARTS = ("qweight", "qzeros", "scales")

_LIMITS = (-15, 15)
# Where column j of eight lies in a word of the gemm layout.
_PLACES = np.array([0, 4, 1, 5, 2, 6, 3, 7])


def describe(keys: Keys) -> str:
    """The layout in words.

    Raises:
        ConfigError: a variant that is not read.
    """
    version, group = _settings(keys)
    width = "whole rows" if group < 0 else f"groups of {group}"
    return f"AWQ ({version}), 4 bits in {width}"


def read(raw: Raw, keys: Keys) -> Iterator[Decoded]:
    """Every quantized matrix."""
    version, group = _settings(keys)
    for module in modules(raw, "qweight"):
        yield _gemm(module, group) if version == "gemm" else _gemv(module, group)


def _settings(keys: Keys) -> tuple[str, int]:
    key = "bits" if keys.get("bits") is not None else "w_bit"
    bits = keys.integer(key, 4)
    if bits != 4:
        keys.refuse(key, f"is {bits}; supported: 4")
    key = "group_size" if keys.get("group_size") is not None else "q_group_size"
    group = keys.integer(key, 128)
    if group == 0 or group < -1:
        keys.refuse(key, f"is {group}; expected -1 or more than 0")
    version = keys.text("version", "gemm").lower()
    if version not in ("gemm", "gemv"):
        keys.refuse(
            "version",
            f"is {shown(version)}, weights interleaved for one GPU kernel; supported: gemm, gemv",
        )
    return version, group


def _gemm(module: Module, size: int) -> Decoded:
    weight = module.part("qweight", ("i32",), (-1, -1))
    width, columns = weight.shape[0], weight.shape[1] * 8
    group = width if size < 0 else size
    groups = -(-width // group) if group else 0
    zeros = module.part("qzeros", ("i32",), (groups, columns // 8))
    scales = module.part("scales", FLOATS, (groups, columns))

    def prepare() -> MakeGroups:
        packed = words(weight)
        zero = _outputs(words(zeros))
        scale = np.ascontiguousarray(floats(scales).T)

        def make(start: int, stop: int) -> Groups:
            first = start // 8
            outputs = _outputs(packed[:, first : -(-stop // 8)])
            numbers = outputs[start - 8 * first : stop - 8 * first]
            return Groups(centred(numbers, zero[start:stop], group), scale[start:stop])

        return make

    return grouped(
        f"{module.name}.weight",
        weight.file,
        (columns, width),
        prepare,
        limits=_LIMITS,
        group=group,
        scales=scales.dtype,
    )


def _outputs(packed: Whole) -> Bytes:
    """Words `[rows, columns / 8]` of the gemm layout as numbers uint8 `[columns, rows]`."""
    rows = packed.shape[0]
    numbers = unpack(row_bytes(packed), 4, packed.shape[1] * 8)
    return np.ascontiguousarray(numbers.reshape(rows, -1, 8)[:, :, _PLACES].reshape(rows, -1).T)


def _gemv(module: Module, size: int) -> Decoded:
    weight = module.part("qweight", ("i32",), (-1, -1))
    columns, width = weight.shape[0], weight.shape[1] * 8
    group = width if size < 0 else size
    groups = -(-width // group) if group else 0
    zeros = module.part("qzeros", ("i32",), (columns, -1))
    scales = module.part("scales", FLOATS, (columns, -1))
    for record, held in ((zeros, zeros.shape[1] * 8), (scales, scales.shape[1])):
        if held < groups:
            module.refuse(record, f"holds {held} groups of a row; {groups} were expected")

    def prepare() -> MakeGroups:
        packed, zero, scale = words(weight), words(zeros), floats(scales)

        def make(start: int, stop: int) -> Groups:
            numbers = unpack(row_bytes(packed[start:stop]), 4, width)
            points = unpack(row_bytes(zero[start:stop]), 4, groups)
            return Groups(centred(numbers, points, group), scale[start:stop, :groups])

        return make

    return grouped(
        f"{module.name}.weight",
        weight.file,
        (columns, width),
        prepare,
        limits=_LIMITS,
        group=group,
        scales=scales.dtype,
    )
