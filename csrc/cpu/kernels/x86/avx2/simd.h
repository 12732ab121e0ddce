// 256-bit registers: sixteen floats as two of them, with the names of kernels/scalar/simd.h, for
// the common kernels; and 8 of the 16 rows of a panel in one, for kernels/gemm. Compiled for avx2
// and, with the dot product instruction, for avx2_vnni.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/blocks.h"

#define LLAMA_RT_INLINE inline __attribute__((always_inline))

namespace llama_rt::cpu::LLAMA_RT_LEVEL {

#include "core/codec.inl"

// Tokens (or query rows) that a register tile of the common kernels holds beside four vectors.
inline constexpr int kTileRows = 1;
// Query rows times vectors of positions or features that attention sums at once.
inline constexpr int kQueryTile = 6;

struct F32x16 {
  __m256 low, high;
};

inline F32x16 set1(float a) { return {_mm256_set1_ps(a), _mm256_set1_ps(a)}; }
inline F32x16 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline F32x16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F32x16 a) {
  _mm256_storeu_ps(p, a.low);
  _mm256_storeu_ps(p + 8, a.high);
}

#define LLAMA_RT_HALVES(name, intrinsic)                         \
  inline F32x16 name(F32x16 a, F32x16 b) {                       \
    return {intrinsic(a.low, b.low), intrinsic(a.high, b.high)}; \
  }
LLAMA_RT_HALVES(add, _mm256_add_ps)
LLAMA_RT_HALVES(sub, _mm256_sub_ps)
LLAMA_RT_HALVES(mul, _mm256_mul_ps)
LLAMA_RT_HALVES(div, _mm256_div_ps)
LLAMA_RT_HALVES(max, _mm256_max_ps)
LLAMA_RT_HALVES(min, _mm256_min_ps)
#undef LLAMA_RT_HALVES

inline F32x16 absolute(F32x16 a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
}
inline F32x16 select_greater(F32x16 a, F32x16 b, F32x16 yes, F32x16 no) {
  return {_mm256_blendv_ps(no.low, yes.low, _mm256_cmp_ps(a.low, b.low, _CMP_GT_OQ)),
          _mm256_blendv_ps(no.high, yes.high, _mm256_cmp_ps(a.high, b.high, _CMP_GT_OQ))};
}
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline F32x16 load_f16(const uint16_t* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm256_cvtph_ps(_mm256_castsi256_si128(bits)),
          _mm256_cvtph_ps(_mm256_extracti128_si256(bits, 1))};
}
inline __m256 widen_bf16(__m128i bits) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline F32x16 load_bf16(const uint16_t* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {widen_bf16(_mm256_castsi256_si128(bits)), widen_bf16(_mm256_extracti128_si256(bits, 1))};
}
inline F32x16 load_i8(const int8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(bytes, bytes)))};
}
inline void store_f16(uint16_t* p, F32x16 a) {
  constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a.low, kMode));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(a.high, kMode));
}
// Nearest even in the low half of each word; NaN kept quiet.
inline __m256i narrow_bf16(__m256 a) {
  const __m256i bits = _mm256_castps_si256(a);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
}
inline void store_bf16(uint16_t* p, F32x16 a) {
  const __m256i words = _mm256_packus_epi32(narrow_bf16(a.low), narrow_bf16(a.high));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(words, 0xd8));
}
inline F32x16 round_nearest(F32x16 a) {
  constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(a.low, kMode), _mm256_round_ps(a.high, kMode)};
}
// The nearest whole numbers, ties to even, for |a| < 127.5.
inline void store_i8(int8_t* p, F32x16 a) {
  const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(a.low), _mm256_cvtps_epi32(a.high));
  const __m256i in_order = _mm256_permute4x64_epi64(words, 0xd8);
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(p),
      _mm_packs_epi16(_mm256_castsi256_si128(in_order), _mm256_extracti128_si256(in_order, 1)));
}
inline bool any_nan(F32x16 a) {
  return _mm256_movemask_ps(_mm256_cmp_ps(a.low, a.high, _CMP_UNORD_Q)) != 0;
}
inline __m256 exp2_whole(__m256 a) {
  const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(a), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
inline F32x16 exp2_whole(F32x16 a) { return {exp2_whole(a.low), exp2_whole(a.high)}; }

inline float reduce_add(F32x16 a) {
  const __m256 eight = _mm256_add_ps(a.low, a.high);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
inline float reduce_max(F32x16 a) {
  const __m256 eight = _mm256_max_ps(a.low, a.high);
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

// Panels: a register holds 8 of the 16 rows. All that kernels/gemm is written over has the same
// names at every level.

inline constexpr int kLanes = 8;   // rows of a register
inline constexpr int kParts = 2;   // registers of a panel's rows
inline constexpr int kTokens = 3;  // inputs of a tile of quantized weights
constexpr int parts_of_tile(int /*tokens*/) { return kParts; }
inline constexpr int kFloatTokens = 6;
inline constexpr int kPairTokens = 4;  // of bf16 weights, two of which are held at a time
// Panels side by side in a tile of float weights: few tokens make few chains of sums.
constexpr int panels_of_tile(int tokens) { return tokens <= 2 ? 2 : 1; }

using F = __m256;
using I = __m256i;

LLAMA_RT_INLINE F f_zero() { return _mm256_setzero_ps(); }
LLAMA_RT_INLINE F f_load(const float* p) { return _mm256_loadu_ps(p); }
LLAMA_RT_INLINE void f_store(float* p, F a) { _mm256_storeu_ps(p, a); }
LLAMA_RT_INLINE F f_set(float a) { return _mm256_set1_ps(a); }
LLAMA_RT_INLINE F f_add(F a, F b) { return _mm256_add_ps(a, b); }
LLAMA_RT_INLINE F f_mul(F a, F b) { return _mm256_mul_ps(a, b); }
LLAMA_RT_INLINE F f_fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
LLAMA_RT_INLINE F f_of(I a) { return _mm256_cvtepi32_ps(a); }
LLAMA_RT_INLINE F f_half(const std::byte* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
// Part kPart of the bytes of 16 rows.
template <int kPart>
LLAMA_RT_INLINE F f_u8(const std::byte* p) {
  const auto* part = reinterpret_cast<const __m128i*>(p + kLanes * kPart);
  return f_of(_mm256_cvtepu8_epi32(_mm_loadl_epi64(part)));
}
template <int kPart>
LLAMA_RT_INLINE F f_i8(const std::byte* p) {
  const auto* part = reinterpret_cast<const __m128i*>(p + kLanes * kPart);
  return f_of(_mm256_cvtepi8_epi32(_mm_loadl_epi64(part)));
}
// The even and the odd k of a vector of bf16 pairs.
LLAMA_RT_INLINE F f_bf16_even(I a) { return _mm256_castsi256_ps(_mm256_slli_epi32(a, 16)); }
LLAMA_RT_INLINE F f_bf16_odd(I a) {
  return _mm256_castsi256_ps(_mm256_and_si256(a, _mm256_set1_epi32(-65536)));
}

LLAMA_RT_INLINE I i_zero() { return _mm256_setzero_si256(); }
LLAMA_RT_INLINE I i_load(const std::byte* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
LLAMA_RT_INLINE I i_set(int32_t a) { return _mm256_set1_epi32(a); }
LLAMA_RT_INLINE I i_and(I a, I b) { return _mm256_and_si256(a, b); }
LLAMA_RT_INLINE I i_bytes_and(I a, int8_t mask) { return i_and(a, _mm256_set1_epi8(mask)); }
// a with the bits of `mask` of b's bytes added.
LLAMA_RT_INLINE I i_merge(I a, I b, int8_t mask) {
  return _mm256_or_si256(a, i_bytes_and(b, mask));
}
// Bits moved up (or, negative, down) within 16-bit words; the caller masks what crosses a byte.
template <int kBits>
LLAMA_RT_INLINE I i_move(I a) {
  if constexpr (kBits > 0) {
    return _mm256_slli_epi16(a, kBits);
  } else if constexpr (kBits < 0) {
    return _mm256_srli_epi16(a, -kBits);
  } else {
    return a;
  }
}
// Bits [kAt, kAt + kCount) of each byte.
template <int kAt, int kCount>
LLAMA_RT_INLINE I i_bits(I a) {
  return i_bytes_and(i_move<-kAt>(a), (1 << kCount) - 1);
}
// Bytes q + 128 as q.
LLAMA_RT_INLINE I i_signed(I a) { return _mm256_xor_si256(a, _mm256_set1_epi8(-128)); }
// Entries of a table of 16 bytes.
LLAMA_RT_INLINE I i_lookup(const uint8_t* table, I codes) {
  const __m128i entries = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(entries), codes);
}
template <int kBits>
LLAMA_RT_INLINE I i_times(I a) {  // a * 2^kBits, exact
  if constexpr (kBits >= 0) {
    return _mm256_slli_epi32(a, kBits);
  } else {
    return _mm256_srai_epi32(a, -kBits);
  }
}
// 16-bit pairs: the high bytes, signed; two 32-bit values as one pair; products summed per pair.
LLAMA_RT_INLINE I i_high_bytes(I a) { return _mm256_srai_epi16(a, 8); }
LLAMA_RT_INLINE I i_pairs(I low, I high) {
  return _mm256_blend_epi16(low, _mm256_slli_epi32(high, 16), 0xaa);
}
LLAMA_RT_INLINE I i_multiply_add(I a, I b) { return _mm256_madd_epi16(a, b); }

// The whole-number sums of a group, and what they are summed in within sections of dot groups:
// open, step for each quad with its four inputs, close.
using Sum = I;
using Section = I;
LLAMA_RT_INLINE Sum sum_from(I start) { return start; }
LLAMA_RT_INLINE I sum_of(Sum sum) { return sum; }
LLAMA_RT_INLINE I quad_of(const int8_t* q) {
  int32_t quad;
  __builtin_memcpy(&quad, q, sizeof(quad));
  return i_set(quad);
}
#ifdef __AVXVNNI__
inline constexpr bool kSignedBytes = false;
template <int kBits>
inline constexpr int kSection = 8;
LLAMA_RT_INLINE Section dot_open(Sum total) { return total; }
template <int kBits, int kQuad>
LLAMA_RT_INLINE Section dot_step(Section sum, I codes, const int8_t* q) {
  return _mm256_dpbusd_avx_epi32(sum, codes, quad_of(q + 4 * kQuad));
}
LLAMA_RT_INLINE Sum dot_close(Sum, Section section) { return section; }
#else
// A step adds two products of |x| <= 127 in 16 bits: at most 254 * (2^kBits - 1), so that as many
// steps as fit below 2^15 make a section. 8-bit codes are multiplied as sign and magnitude (at most
// 2 * 128 * 127), so they are signed here and need no offset.
inline constexpr bool kSignedBytes = true;
template <int kBits>
inline constexpr int kSection = kBits <= 4   ? 8
                                : kBits == 5 ? 4
                                : kBits == 6 ? 2
                                             : 1;
// Keeps a chain of sums as written: reassociated, its terms fill and overflow the registers.
LLAMA_RT_INLINE I in_order(I a) {
  asm("" : "+x"(a));
  return a;
}
LLAMA_RT_INLINE Section dot_open(Sum) { return i_zero(); }
template <int kBits, int kQuad>
LLAMA_RT_INLINE Section dot_step(Section sum, I codes, const int8_t* q) {
  const I quad = quad_of(q + 4 * kQuad);
  if constexpr (kBits == 8) {
    return _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(quad, codes));
  } else {
    return in_order(_mm256_add_epi16(sum, _mm256_maddubs_epi16(codes, quad)));
  }
}
LLAMA_RT_INLINE Sum dot_close(Sum total, Section section) {
  return in_order(_mm256_add_epi32(total, _mm256_madd_epi16(section, _mm256_set1_epi16(1))));
}
#endif

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
