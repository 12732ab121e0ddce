"""Importance matrices: how much an error in each column of a matrix counts when it is quantized.

Written by llama.cpp's `imatrix` (`tools/imatrix/imatrix.cpp`), from the squares of the inputs that
a matrix meets on sample texts. Two formats: GGUF (`NAME.in_sum2` and `NAME.counts`), and the older
one, entries of a name, a number of calls, and sums over them. Names are GGUF's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llama_rt.checkpoint.names import from_gguf_name
from llama_rt.convert.rewrite import OutTensor, Rewritten
from llama_rt.errors import CheckpointError
from llama_rt.files import read_head
from llama_rt.formats.gguf import read_gguf
from llama_rt.formats.mapping import MappedFile
from llama_rt.formats.records import MAX_ITEMS

__all__ = ["Importance", "read_importance", "with_importance"]

Importance: TypeAlias = npt.NDArray[np.float32]
"""One number for each column, 1 on average."""

_MAX_NAME = 400
_LEAST = 1e-4  # of the average: columns that no sample text used keep a little weight


def read_importance(path: Path) -> dict[str, Importance]:
    """The importance of the columns of each matrix, by canonical name.

    Raises:
        CheckpointError: the file is neither format, or damaged.
    """
    entries = _read_gguf(path) if read_head(path, 4) == b"GGUF" else _read_legacy(path)
    found: dict[str, Importance] = {}
    for name, values in entries:
        canonical = from_gguf_name(name)
        if canonical is not None:
            found[canonical] = _scaled(path, name, values)
    if not found:
        msg = f"{path}: an importance matrix without one matrix of a LLaMA model"
        raise CheckpointError(msg)
    return found


def with_importance(tensors: Sequence[OutTensor], path: Path, notes: list[str]) -> list[OutTensor]:
    """The tensors of a file with the importance of their columns, where it is known.

    Raises:
        CheckpointError: it is damaged, or of another model.
    """
    known = read_importance(path)
    weighted: list[OutTensor] = []
    without: list[str] = []
    for tensor in tensors:
        if isinstance(tensor, Rewritten) and len(tensor.shape) == 2:
            values = known.get(tensor.record.name)
            if values is None:
                without.append(tensor.name)
            elif len(values) != tensor.shape[1]:
                msg = (
                    f"{path}: the importance of {tensor.name!r} has {len(values)} columns, the "
                    f"matrix {tensor.shape[1]}: it was made for another model"
                )
                raise CheckpointError(msg)
            else:
                tensor = replace(tensor, importance=values)
        weighted.append(tensor)
    if without:
        notes.append(
            f"{path.name} has nothing on {', '.join(without[:3])}{' ...' if without[3:] else ''}: "
            "errors there count alike"
        )
    return weighted


def _scaled(path: Path, name: str, values: npt.NDArray[np.float32]) -> Importance:
    """Values with an average of 1, none below `_LEAST`."""
    if not np.isfinite(values).all() or (values < 0).any():
        msg = f"{path}: the importance of {name!r} has a value that is negative or not finite"
        raise CheckpointError(msg)
    average = float(values.astype(np.float64).mean()) if values.size else 0.0
    if average == 0.0:
        return np.ones_like(values)
    scaled: Importance = np.maximum(values / average, _LEAST).astype(np.float32)
    return scaled


def _read_gguf(path: Path) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    file = read_gguf(path)
    if file.metadata.get("general.type") != "imatrix":
        msg = f"{path}: a GGUF file of type {str(file.metadata.get('general.type'))[:40]!r}, "
        msg += "not an importance matrix"
        raise CheckpointError(msg)
    for name, record in file.tensors.items():
        if not name.endswith(".in_sum2"):
            continue
        matrix = name.removesuffix(".in_sum2")
        counts = file.tensors.get(f"{matrix}.counts")
        if counts is None or counts.dtype != "f32" or record.dtype != "f32":
            msg = f"{path}: {matrix!r} has no in_sum2 and counts in f32"
            raise CheckpointError(msg)
        sums, calls = record.read().view("<f4"), counts.read().view("<f4")
        if calls.size == 1:  # more belong to experts
            yield matrix, sums / calls if calls[0] > 0 else np.zeros_like(sums)


def _read_legacy(path: Path) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    file = MappedFile(path)
    at = 0

    def number(what: str, least: int, most: int) -> int:
        nonlocal at
        (value,) = struct.unpack("<i", file.copy(at, 4, what))
        at += 4
        if not least <= value <= most:
            msg = f"{path}: {what} is {value}; this is no importance matrix, or a damaged one"
            raise CheckpointError(msg)
        return int(value)

    for _ in range(number("the number of entries", 1, MAX_ITEMS)):
        length = number("the length of a name", 1, _MAX_NAME)
        name = file.copy(at, length, "a name").decode("utf-8", "replace")
        at += length
        calls = number("a number of calls", 0, 2**31 - 1)
        count = number("a number of columns", 1, 2**31 - 1)
        values = np.frombuffer(file.copy(at, 4 * count, f"values of {name!r}"), "<f4")
        at += 4 * count
        yield name, values / np.float32(max(calls, 1))
