// The lanes of packed kernels: one 512-bit register holds all 16 rows of a panel. avx2/lanes.h has
// the same names with 8 rows to a register.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#define LLAMA_RT_INLINE inline __attribute__((always_inline))

namespace llama_rt::cpu::LLAMA_RT_TIER {

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

// The whole-number sums of a group, and what they are summed in within sections of quads: open,
// step for each quad with its four inputs, close.
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

}  // namespace llama_rt::cpu::LLAMA_RT_TIER
