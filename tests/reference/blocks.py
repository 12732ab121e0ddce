"""Block formats decoded (and some encoded) in numpy float32, written from the published formulas.

Every formula is evaluated left to right in float32, so that the native decoders can be compared
bit for bit. Blocks are `uint8` arrays `[blocks, block_bytes]`; values are `[blocks, elements]`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

F32 = np.float32


@dataclass(frozen=True)
class Format:
    """How a stored type looks from outside, and how to read it."""

    elements: int
    bytes: int
    gguf_id: int
    decode: Callable[[np.ndarray], np.ndarray]
    half_fields: tuple[int, ...] = ()  # byte offsets of the half-precision scales
    centre: float = 0.0  # second scale over first that makes random codes average to zero
    put: Callable[[np.ndarray, np.ndarray], None] | None = None  # scales kept in another way


def half(blocks: np.ndarray, at: int) -> np.ndarray:
    """The half at byte `at` of each block as float32 `[blocks, 1]`."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(F32)


def nibbles(qs: np.ndarray) -> np.ndarray:
    """All low nibbles, then all high ones: `[blocks, 2 * bytes]` float32."""
    return np.concatenate([qs & 15, qs >> 4], axis=1).astype(F32)


def fifth_bits(blocks: np.ndarray, at: int) -> np.ndarray:
    """Bit e of the u32 at byte `at`, worth 16: `[blocks, 32]` float32."""
    word = np.ascontiguousarray(blocks[:, at : at + 4]).view("<u4")
    return (((word >> np.arange(32, dtype=np.uint32)) & 1) * 16).astype(F32)


def f32(b: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(b).view("<f4")


def f16(b: np.ndarray) -> np.ndarray:
    return half(b, 0)


def bf16(b: np.ndarray) -> np.ndarray:
    return (np.ascontiguousarray(b).view("<u2").astype(np.uint32) << 16).view(F32)


def q4_0(b: np.ndarray) -> np.ndarray:
    return half(b, 0) * (nibbles(b[:, 2:]) - F32(8))


def q4_1(b: np.ndarray) -> np.ndarray:
    return half(b, 0) * nibbles(b[:, 4:]) + half(b, 2)


def q5_0(b: np.ndarray) -> np.ndarray:
    return half(b, 0) * (nibbles(b[:, 6:]) + fifth_bits(b, 2) - F32(16))


def q5_1(b: np.ndarray) -> np.ndarray:
    return half(b, 0) * (nibbles(b[:, 8:]) + fifth_bits(b, 4)) + half(b, 2)


def q8_0(b: np.ndarray) -> np.ndarray:
    return half(b, 0) * b[:, 2:].view(np.int8).astype(F32)


# Element e of a 256-block: half h, quarter j, lane l, group of sixteen g, group of 32 s.
E = np.arange(256)
H, J, L, G, S = E // 128, E % 128 // 32, E % 32, E // 16, E // 32


def q2_k(b: np.ndarray) -> np.ndarray:
    scales, qs = b[:, :16], b[:, 16:80]
    d, dmin = half(b, 80), half(b, 82)
    q = (qs[:, 32 * H + L] >> (2 * J).astype(np.uint8)) & 3
    scale, low = (scales[:, G] & 15).astype(F32), (scales[:, G] >> 4).astype(F32)
    return d * scale * q.astype(F32) - dmin * low


def q3_k(b: np.ndarray) -> np.ndarray:
    hmask, qs, scales, d = b[:, :32], b[:, 32:96], b[:, 96:108].astype(np.int32), half(b, 108)
    g = np.arange(16)
    low4 = np.where(g < 8, scales[:, g % 8] & 15, scales[:, g % 8] >> 4)
    high2 = (scales[:, 8 + g % 4] >> (2 * (g // 4))) & 3
    sigma = (low4 | high2 << 4) - 32
    q = ((qs[:, 32 * H + L] >> (2 * J).astype(np.uint8)) & 3).astype(np.int32)
    q -= np.where((hmask[:, L] >> (4 * H + J).astype(np.uint8)) & 1, 0, 4)
    return d * sigma[:, G].astype(F32) * q.astype(F32)


def scales_and_mins(s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The eight 6-bit scales and minima packed in twelve bytes `[blocks, 12]`."""
    i = np.arange(4)
    scale = [s[:, i] & 63, (s[:, i + 8] & 15) | (s[:, i] >> 6) << 4]
    low = [s[:, i + 4] & 63, (s[:, i + 8] >> 4) | (s[:, i + 4] >> 6) << 4]
    return np.concatenate(scale, axis=1).astype(F32), np.concatenate(low, axis=1).astype(F32)


def _k_nibbles(qs: np.ndarray) -> np.ndarray:
    return (qs[:, 32 * (S // 2) + L] >> (4 * (S % 2)).astype(np.uint8)) & 15


def q4_k(b: np.ndarray) -> np.ndarray:
    scale, low = scales_and_mins(b[:, 4:16])
    n = _k_nibbles(b[:, 16:]).astype(F32)
    return half(b, 0) * scale[:, S] * n - half(b, 2) * low[:, S]


def q5_k(b: np.ndarray) -> np.ndarray:
    scale, low = scales_and_mins(b[:, 4:16])
    fifth = (b[:, 16:48][:, L] >> S.astype(np.uint8)) & 1
    n = (_k_nibbles(b[:, 48:]) + 16 * fifth).astype(F32)
    return half(b, 0) * scale[:, S] * n - half(b, 2) * low[:, S]


def q6_k(b: np.ndarray) -> np.ndarray:
    ql, qh, scales, d = b[:, :128], b[:, 128:192], b[:, 192:208].view(np.int8), half(b, 208)
    base = ql[:, 64 * H + 32 * (J % 2) + L]
    low4 = np.where(J < 2, base & 15, base >> 4)
    high2 = (qh[:, 32 * H + L] >> (2 * J).astype(np.uint8)) & 3
    q = (low4 | high2 << 4).astype(np.int32) - 32
    return d * scales[:, G].astype(F32) * q.astype(F32)


def q8_k(b: np.ndarray) -> np.ndarray:
    return f32(b[:, :4]) * b[:, 4:260].view(np.int8).astype(F32)


def by_gguf(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """The codebook formats, whose tables only the gguf package has independently."""

    def decode(b: np.ndarray) -> np.ndarray:
        import gguf

        return gguf.quants.dequantize(b, gguf.GGMLQuantizationType[name])

    return decode


def put_float(blocks: np.ndarray, scales: np.ndarray) -> None:
    blocks[:, :4] = scales.astype("<f4").view(np.uint8)


def put_power(blocks: np.ndarray, scales: np.ndarray) -> None:
    """MXFP4: the nearest power of two; the sign is lost."""
    blocks[:, 0] = np.rint(np.log2(np.abs(scales[:, 0]))) + 127


def put_spread(blocks: np.ndarray, scales: np.ndarray) -> None:
    """IQ1_M: a half's four nibbles on top of four words."""
    words = np.ascontiguousarray(blocks[:, 48:56]).view("<u2")
    half_bits = scales.astype("<f2").view("<u2")
    nibbles_of = half_bits >> np.array([0, 4, 8, 12], np.uint16) & 15
    blocks[:, 48:56] = (words & 0x0FFF | nibbles_of << 12).astype("<u2").view(np.uint8)


FORMATS = {
    "f32": Format(1, 4, 0, f32),
    "f16": Format(1, 2, 1, f16),
    "bf16": Format(1, 2, 30, bf16),
    "q4_0": Format(32, 18, 2, q4_0, (0,)),
    "q4_1": Format(32, 20, 3, q4_1, (0, 2), -7.5),
    "q5_0": Format(32, 22, 6, q5_0, (0,)),
    "q5_1": Format(32, 24, 7, q5_1, (0, 2), -15.5),
    "q8_0": Format(32, 34, 8, q8_0, (0,)),
    "q2_k": Format(256, 84, 10, q2_k, (80, 82), 1.5),
    "q3_k": Format(256, 110, 11, q3_k, (108,)),
    "q4_k": Format(256, 144, 12, q4_k, (0, 2), 7.5),
    "q5_k": Format(256, 176, 13, q5_k, (0, 2), 15.5),
    "q6_k": Format(256, 210, 14, q6_k, (208,)),
    "q8_1": Format(32, 36, 9, lambda b: half(b, 0) * b[:, 4:].view(np.int8).astype(F32), (0,)),
    "q8_k": Format(256, 292, 15, q8_k, put=put_float),
    "iq1_s": Format(256, 50, 19, by_gguf("IQ1_S"), (0,)),
    "iq1_m": Format(256, 56, 29, by_gguf("IQ1_M"), put=put_spread),
    "iq2_xxs": Format(256, 66, 16, by_gguf("IQ2_XXS"), (0,)),
    "iq2_xs": Format(256, 74, 17, by_gguf("IQ2_XS"), (0,)),
    "iq2_s": Format(256, 82, 22, by_gguf("IQ2_S"), (0,)),
    "iq3_xxs": Format(256, 98, 18, by_gguf("IQ3_XXS"), (0,)),
    "iq3_s": Format(256, 110, 21, by_gguf("IQ3_S"), (0,)),
    "iq4_nl": Format(32, 18, 20, by_gguf("IQ4_NL"), (0,)),
    "iq4_xs": Format(256, 136, 23, by_gguf("IQ4_XS"), (0,)),
    "tq1_0": Format(256, 54, 34, by_gguf("TQ1_0"), (52,)),
    "tq2_0": Format(256, 66, 35, by_gguf("TQ2_0"), (64,)),
    "mxfp4": Format(32, 17, 39, by_gguf("MXFP4"), put=put_power),
}


def decode(data: np.ndarray, dtype: str) -> np.ndarray:
    """Float32 values `[..., k]` of rows of stored bytes `[..., row_bytes]`."""
    row = FORMATS[dtype]
    blocks = np.ascontiguousarray(data, dtype=np.uint8).reshape(-1, row.bytes)
    with np.errstate(invalid="ignore", over="ignore"):
        values = row.decode(blocks)
    return values.reshape(*data.shape[:-1], -1)


def random_bytes(dtype: str, rows: int, k: int, seed: int, spread: float = 1.0) -> np.ndarray:
    """Rows of blocks `[rows, row_bytes]` with random contents: every code and scale occurs.

    Values have a deviation of `spread / sqrt(k)` and average to about zero, as weights do.
    """
    rng = np.random.default_rng(seed)
    row = FORMATS[dtype]
    assert k % row.elements == 0
    wanted = spread / np.sqrt(k)
    if row.elements == 1:
        return encode((rng.standard_normal((rows, k)) * wanted).astype(F32), dtype)
    blocks = rng.integers(0, 256, (rows * k // row.elements, row.bytes), dtype=np.uint8)
    deviation = float(np.std(row.decode(_scaled(blocks, row, np.ones((len(blocks), 1))))))
    scales = wanted / deviation * rng.uniform(0.5, 1.5, (len(blocks), 1))
    scales *= rng.choice([-1, 1], scales.shape)  # no format's code range is symmetric
    return _scaled(blocks, row, scales).reshape(rows, -1)


def _scaled(blocks: np.ndarray, row: Format, scales: np.ndarray) -> np.ndarray:
    """The blocks with `scales` `[blocks, 1]` as their halves."""
    blocks = blocks.copy()
    for at, ratio in zip(row.half_fields, (1.0, row.centre), strict=False):
        blocks[:, at : at + 2] = (scales * ratio).astype("<f2").view(np.uint8)
    if row.put:
        row.put(blocks, scales)
    return blocks


def encode(values: np.ndarray, dtype: str) -> np.ndarray:
    """Bytes `[..., row_bytes]` of float32 `[..., k]` by the reference encoders' rules."""
    values = np.ascontiguousarray(values, dtype=F32)
    row = FORMATS[dtype]
    flat = values.reshape(-1, row.elements)
    return ENCODERS[dtype](flat).reshape(*values.shape[:-1], -1)


def _encode_f16(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(x.astype("<f2")).view(np.uint8)


def _encode_bf16(x: np.ndarray) -> np.ndarray:
    bits = x.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16
    quiet = (bits >> 16) | np.uint32(64)
    nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    return np.ascontiguousarray(np.where(nan, quiet, rounded).astype("<u2")).view(np.uint8)


def _reciprocal(d: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", over="ignore"):
        return np.where(d == 0, F32(0), F32(1) / d)


def _encode_symmetric(x: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes and half scale of Q4_0 and Q5_0: the largest magnitude becomes the lowest code."""
    centre = 1 << (bits - 1)
    peak = np.take_along_axis(x, np.argmax(np.abs(x), axis=1)[:, None], axis=1)
    d = peak / F32(-centre)
    codes = np.trunc(x * _reciprocal(d) + F32(centre + 0.5))
    return np.clip(codes, 0, 2 * centre - 1).astype(np.uint8), d.astype("<f2").view(np.uint8)


def _encode_affine(x: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes and half scale, half minimum of Q4_1 and Q5_1."""
    low = x.min(axis=1, keepdims=True)
    d = (x.max(axis=1, keepdims=True) - low) / F32((1 << bits) - 1)
    codes = np.trunc((x - low) * _reciprocal(d) + F32(0.5))
    fields = np.concatenate([d.astype("<f2"), low.astype("<f2")], axis=1)
    return np.clip(codes, 0, (1 << bits) - 1).astype(np.uint8), fields.view(np.uint8)


def _packed(codes: np.ndarray, fields: np.ndarray, *, fifth: bool) -> np.ndarray:
    parts = [fields]
    if fifth:
        parts.append(np.packbits(codes >> 4, axis=1, bitorder="little"))
    parts.append((codes[:, :16] & 15) | (codes[:, 16:] & 15) << 4)
    return np.concatenate(parts, axis=1)


def _encode_q8_0(x: np.ndarray) -> np.ndarray:
    d = np.abs(x).max(axis=1, keepdims=True) / F32(127)
    scaled = x * _reciprocal(d)
    # Halves go away from zero; float64 keeps the added half exact.
    codes = np.trunc(scaled.astype(np.float64) + np.copysign(0.5, scaled)).astype(np.int8)
    return np.concatenate([d.astype("<f2").view(np.uint8), codes.view(np.uint8)], axis=1)


ENCODERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "f32": lambda x: np.ascontiguousarray(x.astype("<f4")).view(np.uint8),
    "f16": _encode_f16,
    "bf16": _encode_bf16,
    "q4_0": lambda x: _packed(*_encode_symmetric(x, 4), fifth=False),
    "q4_1": lambda x: _packed(*_encode_affine(x, 4), fifth=False),
    "q5_0": lambda x: _packed(*_encode_symmetric(x, 5), fifth=True),
    "q5_1": lambda x: _packed(*_encode_affine(x, 5), fifth=True),
    "q8_0": _encode_q8_0,
}
