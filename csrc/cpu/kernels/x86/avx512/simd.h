// 512-bit registers: sixteen floats in one, with the names of kernels/scalar/simd.h, for the common
// kernels; and the 16 rows of a panel in one, with the names of avx2/simd.h, for kernels/gemm.
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
inline constexpr int kTileRows = 4;
// Query rows times vectors of positions or features that attention sums at once.
inline constexpr int kQueryTile = 24;

struct F32x16 {
  __m512 v;
};

inline F32x16 set1(float a) { return {_mm512_set1_ps(a)}; }
inline F32x16 zero() { return {_mm512_setzero_ps()}; }
inline F32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, F32x16 a) { _mm512_storeu_ps(p, a.v); }
inline F32x16 add(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F32x16 sub(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F32x16 mul(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F32x16 div(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F32x16 max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F32x16 min(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F32x16 absolute(F32x16 a) { return {_mm512_abs_ps(a.v)}; }
inline F32x16 select_greater(F32x16 a, F32x16 b, F32x16 yes, F32x16 no) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ), no.v, yes.v)};
}
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F32x16 load_f16(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline F32x16 load_bf16(const uint16_t* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
inline F32x16 load_i8(const int8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))};
}
inline void store_f16(uint16_t* p, F32x16 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
// Nearest even; NaN kept quiet.
inline void store_bf16(uint16_t* p, F32x16 a) {
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  const __m512i kept = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16)));
}
inline F32x16 round_nearest(F32x16 a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
inline F32x16 exp2_whole(F32x16 a) { return {_mm512_scalef_ps(_mm512_set1_ps(1.0f), a.v)}; }

inline float reduce_add(F32x16 a) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
inline float reduce_max(F32x16 a) { return _mm512_reduce_max_ps(a.v); }

// Panels: a register holds all 16 rows.

inline constexpr int kLanes = 16;  // rows of a register
inline constexpr int kParts = 1;   // registers of a panel's rows
inline constexpr int kTokens = 8;  // inputs of a tile of quantized weights
constexpr int parts_of_tile(int /*tokens*/) { return kParts; }
inline constexpr int kFloatTokens = 8;
inline constexpr int kPairTokens = 8;
// Panels side by side in a tile of float weights: few tokens make few chains of sums.
constexpr int panels_of_tile(int tokens) { return tokens == 1 ? 4 : tokens == 2 ? 2 : 1; }
inline constexpr bool kSignedBytes = false;  // whether 8-bit codes are multiplied as signed

using F = __m512;
using I = __m512i;

LLAMA_RT_INLINE F f_zero() { return _mm512_setzero_ps(); }
LLAMA_RT_INLINE F f_load(const float* p) { return _mm512_loadu_ps(p); }
LLAMA_RT_INLINE void f_store(float* p, F a) { _mm512_storeu_ps(p, a); }
LLAMA_RT_INLINE F f_set(float a) { return _mm512_set1_ps(a); }
LLAMA_RT_INLINE F f_add(F a, F b) { return _mm512_add_ps(a, b); }
LLAMA_RT_INLINE F f_mul(F a, F b) { return _mm512_mul_ps(a, b); }
LLAMA_RT_INLINE F f_fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
LLAMA_RT_INLINE F f_of(I a) { return _mm512_cvtepi32_ps(a); }
LLAMA_RT_INLINE F f_half(const std::byte* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
template <int kPart>  // of the bytes of 16 rows, which are one part
LLAMA_RT_INLINE F f_u8(const std::byte* p) {
  return f_of(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
template <int kPart>
LLAMA_RT_INLINE F f_i8(const std::byte* p) {
  return f_of(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
// The even and the odd k of a vector of bf16 pairs.
LLAMA_RT_INLINE F f_bf16_even(I a) { return _mm512_castsi512_ps(_mm512_slli_epi32(a, 16)); }
LLAMA_RT_INLINE F f_bf16_odd(I a) {
  return _mm512_castsi512_ps(_mm512_and_si512(a, _mm512_set1_epi32(-65536)));
}

LLAMA_RT_INLINE I i_zero() { return _mm512_setzero_si512(); }
LLAMA_RT_INLINE I i_load(const std::byte* p) {
  return _mm512_loadu_si512(reinterpret_cast<const void*>(p));
}
LLAMA_RT_INLINE I i_set(int32_t a) { return _mm512_set1_epi32(a); }
LLAMA_RT_INLINE I i_and(I a, I b) { return _mm512_and_si512(a, b); }
LLAMA_RT_INLINE I i_bytes_and(I a, int8_t mask) { return i_and(a, _mm512_set1_epi8(mask)); }
// a with the bits of `mask` of b's bytes added.
LLAMA_RT_INLINE I i_merge(I a, I b, int8_t mask) {
  return _mm512_ternarylogic_epi32(a, b, _mm512_set1_epi8(mask), 0xf8);
}
// Bits moved up (or, negative, down) within 16-bit words; the caller masks what crosses a byte.
template <int kBits>
LLAMA_RT_INLINE I i_move(I a) {
  if constexpr (kBits > 0) {
    return _mm512_slli_epi16(a, kBits);
  } else if constexpr (kBits < 0) {
    return _mm512_srli_epi16(a, -kBits);
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
LLAMA_RT_INLINE I i_signed(I a) { return _mm512_xor_si512(a, _mm512_set1_epi8(-128)); }
// Entries of a table of 16 bytes.
LLAMA_RT_INLINE I i_lookup(const uint8_t* table, I codes) {
  const __m128i entries = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(entries), codes);
}
template <int kBits>
LLAMA_RT_INLINE I i_times(I a) {  // a * 2^kBits, exact
  if constexpr (kBits >= 0) {
    return _mm512_slli_epi32(a, kBits);
  } else {
    return _mm512_srai_epi32(a, -kBits);
  }
}
// 16-bit pairs: the high bytes, signed; two 32-bit values as one pair; products summed per pair.
LLAMA_RT_INLINE I i_high_bytes(I a) { return _mm512_srai_epi16(a, 8); }
LLAMA_RT_INLINE I i_pairs(I low, I high) {
  return _mm512_mask_blend_epi16(0xaaaaaaaau, low, _mm512_slli_epi32(high, 16));
}
LLAMA_RT_INLINE I i_multiply_add(I a, I b) { return _mm512_madd_epi16(a, b); }

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
template <int kBits>
inline constexpr int kSection = 8;
LLAMA_RT_INLINE Section dot_open(Sum total) { return total; }
template <int kBits, int kQuad>
LLAMA_RT_INLINE Section dot_step(Section sum, I codes, const int8_t* q) {
  return _mm512_dpbusd_epi32(sum, codes, quad_of(q + 4 * kQuad));
}
LLAMA_RT_INLINE Sum dot_close(Sum, Section section) { return section; }

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
