// Quantized panels as tiles of bf16: code * scale (+ min) in float32, rounded once, to nearest
// even.
//
// A code becomes a float without a conversion: at bit 16 under the exponent of 128 it reads as
// 128 + code. Taking 128 * scale off again is exact where there is no min, since codes and scales
// have few bits (less than 24 together); with a min it costs at most 2^-13 of a scale.
#pragma once

#include <type_traits>

#include "cpu/kernels/gemm/quantized_gemm.h"
#include "cpu/kernels/x86/amx/blocked_gemm.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {

// A code of kBits at bit kAt of a word, under the exponent that makes it the units of a float.
template <int kBits, int kAt>
struct CodeField {
  static constexpr int kBase = 1 << (23 - kAt);
  static constexpr int32_t kMask = ((1 << kBits) - 1) << kAt;
  static constexpr int32_t kExponent = (127 + 23 - kAt) << 23;
};
template <int kBits>
inline constexpr int kQuadAt = kBits == 8 ? 15 : 16;  // below the exponent

template <int kUp>
LLAMA_RT_INLINE I moved(I words) {
  if constexpr (kUp > 0) {
    return _mm512_slli_epi32(words, kUp);
  } else if constexpr (kUp < 0) {
    return _mm512_srli_epi32(words, -kUp);
  } else {
    return words;
  }
}

// kBase + code.
template <int kBits, int kAt>
LLAMA_RT_INLINE F code_float(I words) {
  using Field = CodeField<kBits, kAt>;
  constexpr int kAndOr = 0xea;
  return _mm512_castsi512_ps(
      _mm512_ternarylogic_epi32(words, i_set(Field::kMask), i_set(Field::kExponent), kAndOr));
}

// What takes kBase and the codes' own offset off again and adds the min.
template <class Format, int kAt>
LLAMA_RT_INLINE F offset_of(F scale, F min) {
  constexpr int kZero = Format::kOffset == kNone ? 0 : (8 << (Format::kOffset + 1)) / 2;
  constexpr int kTaken = CodeField<Format::Codes::kBits, kAt>::kBase + kZero;
  return f_fma(scale, f_set(static_cast<float>(-kTaken)), min);
}

// The four k of a quad: two lines.
template <int kBits>
LLAMA_RT_INLINE void dequantize_quad(I quad, F scale, F offset, std::byte* lines) {
  constexpr int kAt = kQuadAt<kBits>;
  const F k0 = code_float<kBits, kAt>(moved<kAt>(quad));
  const F k1 = code_float<kBits, kAt>(moved<kAt - 8>(quad));
  const F k2 = code_float<kBits, kAt>(moved<kAt - 16>(quad));
  const F k3 = code_float<kBits, kAt>(moved<kAt - 24>(quad));
  store_pairs(f_fma(k0, scale, offset), f_fma(k1, scale, offset), lines);
  store_pairs(f_fma(k2, scale, offset), f_fma(k3, scale, offset), lines + kLine);
}

// A line of nibbles, two dot groups. Low ones are read at bit 16, high ones at bit 12, so that four
// moves of the line serve all eight codes.
template <class Format>
LLAMA_RT_INLINE void dequantize_nibbles(I line, F scale, F min, std::byte* low, std::byte* high) {
  const F low_offset = offset_of<Format, 16>(scale, min);
  const F high_offset = offset_of<Format, 12>(scale, min);
  const I up16 = moved<16>(line), up8 = moved<8>(line);
  const I down8 = moved<-8>(line), down16 = moved<-16>(line);
  const auto at = [&](I words) { return f_fma(code_float<4, 16>(words), scale, low_offset); };
  const auto at_high = [&](I words) { return f_fma(code_float<4, 12>(words), scale, high_offset); };
  store_pairs(at(up16), at(up8), low);
  store_pairs(at(line), at(down8), low + kLine);
  store_pairs(at_high(up8), at_high(line), high);
  store_pairs(at_high(down8), at_high(down16), high + kLine);
}

// Half kHalf of 16-bit pairs, as floats.
template <int kHalf>
LLAMA_RT_INLINE F pair_half(I pairs) {
  if constexpr (kHalf == 0) pairs = _mm512_slli_epi32(pairs, 16);
  return f_of(_mm512_srai_epi32(pairs, 16));
}

// The scale and the min of half kHalf of group kInUnit.
template <class Scales, int kInUnit, int kHalf>
LLAMA_RT_INLINE void read_scale(const std::byte* header, const std::byte* lines, F* scale, F* min) {
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

// Half kHalf of the weight tile of group kInUnit.
template <class Format, int kInUnit, int kHalf>
LLAMA_RT_INLINE void dequantize_half(const std::byte* header, const std::byte* unit,
                                     std::byte* tile) {
  using Shape = typename Format::Shape;
  using Codes = typename Format::Codes;
  F scale, min;
  read_scale<typename Format::Scales, kInUnit, kHalf>(header, unit, &scale, &min);
  const std::byte* codes = unit + Shape::kScales + kInUnit * Shape::kCodes;
  if constexpr (std::is_same_v<Codes, NibbleCodes>) {  // half of the lines, not of k
    constexpr int kFirst = 2 * kHalf;
    std::byte* low = tile + 2 * kFirst * kLine;
    std::byte* high = low + kTileBytes / 2;
    dequantize_nibbles<Format>(i_load(codes + kFirst * kLine), scale, min, low, high);
    dequantize_nibbles<Format>(i_load(codes + (kFirst + 1) * kLine), scale, min, low + 2 * kLine,
                               high + 2 * kLine);
  } else {
    constexpr int kQuad = 4 * kHalf, kBits = Codes::kBits;
    const F offset = offset_of<Format, kQuadAt<kBits>>(scale, min);
    std::byte* out = tile + 2 * kQuad * kLine;
    dequantize_quad<kBits>(Codes::template quad<kQuad, 0>(codes), scale, offset, out);
    dequantize_quad<kBits>(Codes::template quad<kQuad + 1, 0>(codes), scale, offset,
                           out + 2 * kLine);
    dequantize_quad<kBits>(Codes::template quad<kQuad + 2, 0>(codes), scale, offset,
                           out + 4 * kLine);
    dequantize_quad<kBits>(Codes::template quad<kQuad + 3, 0>(codes), scale, offset,
                           out + 6 * kLine);
  }
}

template <class Format>
struct QuantizedTileSource {
  using Shape = typename Format::Shape;

  static int64_t offset(int64_t tile) noexcept { return Shape::offset(tile / 2); }

  static void dequantize(const HalfTile& half) noexcept {
    const int64_t unit = half.index / 4;
    const std::byte* header = half.source + Shape::offset(unit);
    const std::byte* lines = header + Shape::kHeader + unit % Shape::kUnitsPerHeader * Shape::kUnit;
    const int part = static_cast<int>(half.index % 4);
    for (int line = part * kLine; line < Shape::kUnit; line += 4 * kLine) {
      _mm_prefetch(reinterpret_cast<const char*>(lines + half.ahead + line), _MM_HINT_T1);
    }
    switch (part) {
      case 0:
        return dequantize_half<Format, 0, 0>(header, lines, half.tile);
      case 1:
        return dequantize_half<Format, 0, 1>(header, lines, half.tile);
      case 2:
        return dequantize_half<Format, 1, 0>(header, lines, half.tile);
      default:
        return dequantize_half<Format, 1, 1>(header, lines, half.tile);
    }
  }

  static constexpr TileSource kTileSource = {offset, dequantize, nullptr};
  static void multiply(const PackedMatmulTask& task) noexcept {
    multiply_tiles<1>(task, kTileSource);
  }
};

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
