// Quantized panels as tiles of bf16: code * scale (+ min) in float32, rounded once, to nearest even.
//
// The four bytes of a row in a quad become four floats without a conversion: a code placed at bit 16
// under the exponent of 128 reads as 128 + code. Taking 128 * scale off again is exact where there
// is no min, since scales have at most 17 significant bits, and costs 2^-18 of a scale where there is.
#pragma once

#include "cpu/tiers/amx/sweep.h"
#include "cpu/tiers/generic/packed_quantized.h"

namespace llama_rt::cpu::LLAMA_RT_TIER {

// Codes of 8 bits do not fit above bit 16: they go to bit 15, under the exponent of 256.
template <int kBits>
struct CodeField {
  static constexpr int kAt = kBits == 8 ? 15 : 16;
  static constexpr int kBase = kBits == 8 ? 256 : 128;
  static constexpr int32_t kMask = ((1 << kBits) - 1) << kAt;
  static constexpr int32_t kExponent = kBits == 8 ? 0x43800000 : 0x43000000;
};

// Byte kByte of every row of a quad as kBase + code.
template <int kBits, int kByte>
LLAMA_RT_INLINE F code_float(I quad) {
  using Field = CodeField<kBits>;
  constexpr int kUp = Field::kAt - 8 * kByte;
  if constexpr (kUp > 0) {
    quad = _mm512_slli_epi32(quad, kUp);
  } else if constexpr (kUp < 0) {
    quad = _mm512_srli_epi32(quad, -kUp);
  }
  constexpr int kAndOr = 0xea;
  return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(
      quad, i_set(Field::kMask), i_set(Field::kExponent), kAndOr));
}

// Two k of 16 rows as one line of a weight tile.
LLAMA_RT_INLINE void store_pairs(F even, F odd, std::byte* line) {
  alignas(64) static constexpr uint16_t kOrder[32] = {
      0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const auto both = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(odd, even));
  _mm512_store_si512(line, _mm512_permutexvar_epi16(_mm512_load_si512(kOrder), both));
}

template <int kBits>
LLAMA_RT_INLINE void expand_quad(I quad, F scale, F offset, std::byte* lines) {
  store_pairs(f_fma(code_float<kBits, 0>(quad), scale, offset),
              f_fma(code_float<kBits, 1>(quad), scale, offset), lines);
  store_pairs(f_fma(code_float<kBits, 2>(quad), scale, offset),
              f_fma(code_float<kBits, 3>(quad), scale, offset), lines + kLine);
}

// Half kHalf of 16-bit pairs, as floats.
template <int kHalf>
LLAMA_RT_INLINE F pair_half(I pairs) {
  if constexpr (kHalf == 0) pairs = _mm512_slli_epi32(pairs, 16);
  return f_of(_mm512_srai_epi32(pairs, 16));
}

// The scale and the min of half kHalf of group kInUnit.
template <class Scales, int kInUnit, int kHalf>
LLAMA_RT_INLINE void read_scale(const std::byte* header, const std::byte* lines, F* scale,
                                F* min) {
  const auto head = Scales::template header<0>(header);
  *min = f_zero();
  if constexpr (Scales::kPaired) {
    I scales, mins;
    Scales::template read<kInUnit, 0>(lines, &scales, &mins);
    *scale = f_mul(head.d, pair_half<kHalf>(scales));
    if constexpr (Scales::kMins) *min = f_mul(head.negative_dmin, pair_half<kHalf>(mins));
  } else {
    constexpr int kOwn = Scales::kHalves == 2 ? kHalf : 0;
    Scales::template read<kInUnit, kOwn, 0>(head, lines, scale, min);
  }
}

template <class Format, int kInUnit, int kHalf>
LLAMA_RT_INLINE void expand_half(const std::byte* header, const std::byte* unit, std::byte* out) {
  using Shape = typename Format::Shape;
  using Codes = typename Format::Codes;
  constexpr int kZero = Format::kOffset == kNone ? 0 : 8 * (1 << (Format::kOffset + 1)) / 2;
  F scale, min;
  read_scale<typename Format::Scales, kInUnit, kHalf>(header, unit, &scale, &min);
  constexpr auto kTaken = static_cast<float>(-(CodeField<Codes::kBits>::kBase + kZero));
  const F offset = f_fma(scale, f_set(kTaken), min);
  const std::byte* codes = unit + Shape::kScales + kInUnit * Shape::kCodes;
  constexpr int kQuad = 4 * kHalf, kBits = Codes::kBits;
  expand_quad<kBits>(Codes::template quad<kQuad, 0>(codes), scale, offset, out);
  expand_quad<kBits>(Codes::template quad<kQuad + 1, 0>(codes), scale, offset, out + 2 * kLine);
  expand_quad<kBits>(Codes::template quad<kQuad + 2, 0>(codes), scale, offset, out + 4 * kLine);
  expand_quad<kBits>(Codes::template quad<kQuad + 3, 0>(codes), scale, offset, out + 6 * kLine);
}

template <class Format>
struct QuantizedExpansion {
  using Shape = typename Format::Shape;

  static int64_t offset(int64_t tile) noexcept { return Shape::offset(tile / 2); }

  static void expand(const HalfTile& half) noexcept {
    const int64_t unit = half.index / 4;
    const std::byte* header = half.source + Shape::offset(unit);
    const std::byte* lines =
        header + Shape::kHeader + unit % Shape::kUnitsPerHeader * Shape::kUnit;
    const int part = static_cast<int>(half.index % 4);
    for (int line = part * kLine; line < Shape::kUnit; line += 4 * kLine) {
      _mm_prefetch(reinterpret_cast<const char*>(lines + half.ahead + line), _MM_HINT_T1);
    }
    switch (part) {
      case 0: return expand_half<Format, 0, 0>(header, lines, half.out);
      case 1: return expand_half<Format, 0, 1>(header, lines, half.out);
      case 2: return expand_half<Format, 1, 0>(header, lines, half.out);
      default: return expand_half<Format, 1, 1>(header, lines, half.out);
    }
  }

  static constexpr Expansion kExpansion = {offset, expand, nullptr};
  static void multiply(const PackedTask& task) noexcept { multiply_tiles(task, kExpansion); }
};

}  // namespace llama_rt::cpu::LLAMA_RT_TIER
