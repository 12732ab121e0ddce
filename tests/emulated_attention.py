"""A paged cache on the emulated device: sequences stored and attended over, numpy in and out."""

import ctypes
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from emulated_device import library

PAGE = 64
TYPES = {"f32": 0, "f16": 1, "bf16": 2, "q8_0": 3}
_KERNELS = ["_plain", "_split", "_tiles", "_wgmma"]
SOURCES = [
    *(f"csrc/cuda/kernels/attention{name}.cu" for name in ("", *_KERNELS)),
    *("csrc/cuda/kernels/kv_append.cu", "tests/cuda/attention.cu"),
]
_ints = ctypes.POINTER(ctypes.c_int32)
_floats = ctypes.POINTER(ctypes.c_float)


class _Rows(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n", "segments", "page_stride")),
        *((name, _ints) for name in ("positions", "segment_of", "first_row", "pages")),
    )


class _Call(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int32),
        *((name, ctypes.c_int64) for name in ("heads", "kv_heads", "e", "page_count")),
        ("scale", ctypes.c_float),
        *((name, ctypes.c_int64) for name in ("window", "length", "multiprocessors")),
        *((name, ctypes.c_int64) for name in ("max_rows", "max_context")),
        *((name, ctypes.c_int32) for name in ("reproducible", "descending")),
        *((name, _floats) for name in ("cos", "sin")),
        *((name, ctypes.c_int32) for name in ("halves", "hopper")),
    )


def _pointer(a, kind):
    return a.ctypes.data_as(kind)


@dataclass
class Options:
    """What a call may vary besides its arrays."""

    window: int = 0
    length: int = 0
    multiprocessors: int = 4
    reproducible: bool = False
    descending: bool = False
    spare_context: int = 0  # by how much the grid is too large
    rotation: tuple[np.ndarray, np.ndarray] | None = None  # cos, sin [rows stored, e/2]
    halves: bool = False
    stored_first: int = 0  # so many of each sequence's tokens are stored apart from the others
    hopper: bool = False  # with what sm_90a registers over
    keep: list = field(default_factory=list)


def _rows(spans, stride, pages, options):
    """`spans`: (first position, count) of each segment."""
    positions = np.concatenate([np.arange(p, p + c) for p, c in spans]).astype(np.int32)
    counts = [c for _, c in spans]
    segment_of = np.repeat(np.arange(len(spans)), counts).astype(np.int32)
    first_row = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    options.keep += [positions, segment_of, first_row, pages]
    return _Rows(
        *(len(positions), len(spans), stride),
        *(_pointer(a, _ints) for a in (positions, segment_of, first_row, pages)),
    )


def attend(q, k, v, kv_dtype, options=None):
    """Attention of the last rows of each sequence over its cache.

    q: per sequence `[rows, heads, e]`; k, v: per sequence `[context, kv_heads, e]`. Pages lie in a
    random order. Returns a list like `q`; with `rotation`, the rotated queries too.
    """
    options = options or Options()
    rng = np.random.default_rng(5)
    stride = max(-(-len(one) // PAGE) for one in k) + 1
    count = sum(-(-len(one) // PAGE) for one in k)
    order = rng.permutation(count + 1).astype(np.int32)
    pages, taken = np.full((len(k), stride), -1, np.int32), 0
    for i, one in enumerate(k):
        own = -(-len(one) // PAGE)
        pages[i, :own], taken = order[taken : taken + own], taken + own
    heads, e = q[0].shape[1:]
    cuts = [sorted({0, min(options.stored_first, len(one)), len(one)}) for one in k]
    parts = [(i, a, b - a) for i, c in enumerate(cuts) for a, b in pairwise(c)]
    own_pages = np.ascontiguousarray(pages[[i for i, _, _ in parts]])
    stored = _rows([part[1:] for part in parts], stride, own_pages, options)
    asked = _rows(
        [(len(b) - len(a), len(a)) for a, b in zip(q, k, strict=True)], *(stride, pages), options
    )
    flat = [np.ascontiguousarray(np.concatenate(x), np.float32) for x in (q, k, v)]
    out = np.full_like(flat[0], np.nan)
    context = max(len(one) for one in k) if options.length == 0 else options.length
    angles = [None, None]
    if options.rotation:
        options.keep += options.rotation
        angles = [_pointer(a, _floats) for a in options.rotation]
    call = _Call(
        *(TYPES[kv_dtype], heads, k[0].shape[1], e, count + 1, 1 / np.sqrt(e)),
        *(options.window, options.length, options.multiprocessors),
        *(max(len(a) for a in q), context + options.spare_context),
        *(options.reproducible, options.descending, *angles, options.halves, options.hopper),
    )
    run = library("attention", *SOURCES).attend
    run.restype = ctypes.c_char_p
    fault = run(
        *(ctypes.byref(call), ctypes.byref(stored), _pointer(flat[1], _floats)),
        *(_pointer(flat[2], _floats), ctypes.byref(asked), _pointer(flat[0], _floats)),
        _pointer(out, _floats),
    )
    if fault:
        raise RuntimeError(fault.decode())
    ends = np.cumsum([len(a) for a in q])[:-1]
    return np.split(out, ends), np.split(flat[0], ends)
