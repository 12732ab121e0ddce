"""compressed-tensors folders (LLM Compressor): whole numbers or 8-bit floats with their scales.

Format: vllm-project/compressed-tensors `compressors/pack_quantized`, `naive_quantized`. Numbers of
a row are packed from the lowest bit on, increased by half their range; zero points are packed so
along the columns, or (older writers) stored as int8. What a layer's parts are says most; the
configuration names what is not read. Activations, which some schemes quantize too, are not
quantized here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from llama_rt.checkpoint.quantized.bits import packed_along_columns, row_bytes, unpack
from llama_rt.checkpoint.quantized.blocks import Decoded, Groups, MakeGroups, grouped
from llama_rt.checkpoint.quantized.fp8 import float_matrix, tile_sizes
from llama_rt.checkpoint.quantized.parts import (
    FLOATS,
    Floats,
    Module,
    Raw,
    Whole,
    array,
    floats,
    int8s,
    modules,
    words,
)
from llama_rt.config.checked_keys import Keys, shown
from llama_rt.formats.records import TensorRecord

__all__ = ["PARTS", "describe", "read"]

Numbers = Callable[[int, int], npt.NDArray[np.int16]]
"""Signed numbers of rows `[start, stop)`, before zero points are taken off."""

PARTS = (
    *("weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx"),
    *("input_scale", "input_zero_point", "output_scale", "output_zero_point"),
    *("k_scale", "v_scale", "q_scale"),
)

_FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "dense")


def describe(keys: Keys) -> str:
    """The layout in words.

    Raises:
        ConfigError: a variant that is not read.
    """
    _refuse_variants(keys)
    kinds = []
    for group in _groups(keys):
        weights = _weights(group)
        bits, kind = weights.integer("num_bits", 8), weights.text("type", "int")
        size = weights.integer("group_size", 0)
        words = f"{kind}{bits}" + (f" in groups of {size}" if size > 0 else "")
        if words not in kinds:
            kinds.append(words)
    return f"compressed-tensors ({keys.text('format', 'dense')}), {', '.join(kinds)}"


def read(raw: Raw, keys: Keys) -> Iterator[Decoded]:
    """Every quantized matrix."""
    weights = [_weights(group) for group in _groups(keys)]
    bits = sorted({each.integer("num_bits", 8) for each in weights})
    symmetric = all(each.flag("symmetric", default=True) for each in weights)
    tiles = [tile for each in weights if (tile := tile_sizes(each, "block_structure"))]
    for module in modules(raw, "weight_packed"):
        yield _packed(module, bits, symmetric=symmetric)
    for module in modules(raw, "weight_scale"):
        if module.has("weight_packed"):
            continue
        record = module.part("weight", ("i8", "f8_e4m3"), (-1, -1))
        if record.dtype == "i8":
            yield _whole(module, record, symmetric=symmetric)
        else:
            yield float_matrix(module, "weight_scale", tiles[0] if tiles else None)


def _groups(keys: Keys) -> list[Keys]:
    groups = keys.get("config_groups")
    if not isinstance(groups, dict) or not all(isinstance(g, dict) for g in groups.values()):
        keys.refuse("config_groups", f"must be an object of objects, not {shown(groups)}")
    return [Keys(group, f"{keys.source}: {name[:40]!r}") for name, group in groups.items()]


def _weights(group: Keys) -> Keys:
    weights = group.get("weights")
    if not isinstance(weights, Mapping):
        group.refuse("weights", f"must be an object, not {shown(weights)}")
    return Keys(weights, f"{group.source}: weights")


def _refuse_variants(keys: Keys) -> None:
    supported = f"supported: {', '.join(_FORMATS)}"
    forms = [(keys, keys.text("format", "dense"))]
    forms += [(group, group.text("format", "dense")) for group in _groups(keys)]
    for where, form in forms:
        if form not in (*_FORMATS, "mixed-precision"):
            where.refuse("format", f"is {shown(form)}, not supported; {supported}")
    for group in _groups(keys):
        weights = _weights(group)
        bits, kind = weights.integer("num_bits", 8), weights.text("type", "int")
        if kind not in ("int", "float") or (kind == "float" and bits != 8):
            weights.refuse("type", f"is {shown(kind)} of {bits} bits; supported: int, float of 8")
        if not 2 <= bits <= 8:
            weights.refuse("num_bits", f"is {bits}; supported: 2 to 8")
    sparsity = keys.get("sparsity_config")
    if isinstance(sparsity, dict) and sparsity.get("format", "dense") != "dense":
        form = shown(sparsity.get("format"))
        keys.refuse("sparsity_config", f"has format {form}; supported: dense")
    transforms = keys.get("transform_config")
    if isinstance(transforms, dict) and transforms.get("config_groups"):
        keys.refuse("transform_config", "rotates activations, which is not supported")


def _packed(module: Module, choices: list[int], *, symmetric: bool) -> Decoded:
    weight = module.part("weight_packed", ("i32",), (-1, -1))
    rows, width = _shape(module)
    fitting = [n for n in choices if weight.shape == (rows, -(-width * n // 32))]
    if not fitting:
        said = " or ".join(map(str, choices))
        problem = f"has shape {list(weight.shape)}; [{rows}, {width}] of {said} bits was expected"
        module.refuse(weight, problem)
    bits = fitting[0]
    middle = np.int16(1 << (bits - 1))

    def load() -> Numbers:
        packed = words(weight)
        return lambda start, stop: (
            unpack(row_bytes(packed[start:stop]), bits, width).astype(np.int16) - middle
        )

    return _decoded(module, weight, (rows, width), bits, load, symmetric=symmetric)


def _whole(module: Module, weight: TensorRecord, *, symmetric: bool) -> Decoded:
    """A matrix of int8."""

    def load() -> Numbers:
        numbers = int8s(weight)
        return lambda start, stop: numbers[start:stop].astype(np.int16)

    rows, width = weight.shape
    return _decoded(module, weight, (rows, width), 8, load, symmetric=symmetric)


def _decoded(
    module: Module,
    weight: TensorRecord,
    shape: tuple[int, int],
    bits: int,
    load: Callable[[], Numbers],
    *,
    symmetric: bool,
) -> Decoded:
    """A matrix of signed numbers in groups; `load` reads them, zero points are taken off here."""
    rows, width = shape
    scales, group, order = _scales(module, rows, width)
    zeros = _zero_points(module, rows, scales, bits, symmetric=symmetric)
    middle = 1 << (bits - 1)

    def prepare() -> MakeGroups:
        numbers, scale = load(), floats(scales).reshape(-1, scales.shape[-1])
        zero = None if zeros is None else _zero_values(zeros, bits, rows)
        places = np.arange(width) // group if order is None else order

        def make(start: int, stop: int) -> Groups:
            centred = numbers(start, stop)
            if zero is not None:
                centred -= zero[start:stop][:, places]
            return Groups(centred, _rows(scale, start, stop))

        return make

    return grouped(
        f"{module.name}.weight",
        weight.file,
        shape,
        prepare,
        limits=(-middle, middle - 1) if zeros is None else (1 - 2 * middle, 2 * middle - 1),
        group=group,
        scales=scales.dtype,
        order=order,
    )


def _rows(scale: Floats, start: int, stop: int) -> Floats:
    """Scales `[rows, groups]`; one row serves all."""
    return (
        np.broadcast_to(scale, (stop - start, scale.shape[1]))
        if len(scale) == 1
        else scale[start:stop]
    )


def _shape(module: Module) -> tuple[int, int]:
    record = module.part("weight_shape", ("i64", "i32"), (2,))
    rows, width = (int(size) for size in array(record))
    if not (0 < rows < 2**31 and 0 < width < 2**31):
        module.refuse(record, f"says [{rows}, {width}]")
    return rows, width


def _scales(module: Module, rows: int, width: int) -> tuple[TensorRecord, int, Whole | None]:
    """The scales, the columns that share one, and the group of each column if out of order."""
    record = module.part("weight_scale", FLOATS, (-1,) * len(module.find("weight_scale").shape))
    if all(size == 1 for size in record.shape):
        return _as_row(record), width, None
    if len(record.shape) != 2 or record.shape[0] != rows or width % max(1, record.shape[1]):
        wanted = f"[1], [{rows}, 1] or [{rows}, groups]"
        module.refuse(record, f"has shape {list(record.shape)}, expected {wanted}")
    groups = record.shape[1]
    group = width // groups
    if not module.has("weight_g_idx"):
        return record, group, None
    part = module.part("weight_g_idx", ("i32",), (width,))
    order = words(part)
    if np.array_equal(order, np.arange(width) // group):
        return record, group, None
    if int(order.min()) < 0 or int(order.max()) >= groups:
        module.refuse(part, f"names group {int(order.max())}; there are {groups}")
    return record, group, order


def _as_row(record: TensorRecord) -> TensorRecord:
    return TensorRecord(record.name, record.dtype, (1, 1), record.file, record.source)


def _zero_points(
    module: Module, rows: int, scales: TensorRecord, bits: int, *, symmetric: bool
) -> TensorRecord | None:
    """The zero points, if there are any to subtract."""
    if symmetric or not module.has("weight_zero_point"):
        return None
    groups = scales.shape[-1]
    found = module.find("weight_zero_point")
    if found.dtype == "i8":
        if found.shape not in ((rows, groups), (1,), (1, 1), ()):
            module.refuse(found, f"has shape {list(found.shape)}, expected [{rows}, {groups}]")
        return found
    return module.part("weight_zero_point", ("i32",), (-(-rows * bits // 32), groups))


def _zero_values(record: TensorRecord, bits: int, rows: int) -> npt.NDArray[np.int16]:
    """Zero points int16 `[rows, groups]`."""
    if record.dtype == "i8":
        values = int8s(record).astype(np.int16)
        if values.size == 1:
            return np.broadcast_to(values.reshape(1, 1), (rows, 1))
        return values.reshape(rows, -1)
    packed = words(record)
    stored = unpack(packed_along_columns(packed, 0, packed.shape[1]), bits, rows)
    zeros = np.ascontiguousarray(stored.T).astype(np.int16)
    zeros -= np.int16(1 << (bits - 1))
    return zeros
