// AVX-512 and AVX-VNNI in plain C++ for processors that have AVX2 alone: SIMDe's functions under
// the names of the compiler's, and the few that SIMDe 0.8.2 lacks or gets wrong, by the Intel SDM,
// volume 2. Included before the sources of a level, which are compiled with the flags of avx2.
#pragma once

#include <immintrin.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>

namespace emulated {

// Lane i of the result is `convert` of lane i of `from`.
template <typename To, typename ToLane, typename FromLane, typename From, typename Convert>
To lanes(From from, Convert convert) {
  constexpr size_t kCount = sizeof(To) / sizeof(ToLane);
  static_assert(sizeof(From) / sizeof(FromLane) == kCount);
  FromLane in[kCount];
  ToLane out[kCount];
  __builtin_memcpy(in, &from, sizeof(in));
  for (size_t i = 0; i < kCount; ++i) out[i] = convert(in[i]);
  To to;
  __builtin_memcpy(&to, out, sizeof(out));
  return to;
}

template <typename ToLane, typename FromLane, typename To = simde__m512i, typename From>
To converted(From from) {
  return lanes<To, ToLane, FromLane>(from, [](FromLane x) { return static_cast<ToLane>(x); });
}

// Two halves of 8 floats each by the F16C instruction.
template <int kRounding>
__m256i halves(simde__m512 a) {
  const __m128i low = _mm256_cvtps_ph(simde_mm512_extractf32x8_ps(a, 0), kRounding);
  const __m128i high = _mm256_cvtps_ph(simde_mm512_extractf32x8_ps(a, 1), kRounding);
  return _mm256_set_m128i(high, low);
}

// VCVTNE2PS2BF16: nearest even, denormals are zeros, NaN quiet; `b` gives the lower half.
inline uint16_t rounded_bf16(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude < 0x00800000) return static_cast<uint16_t>(bits >> 16 & 0x8000);
  if (magnitude > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline simde__m512bh pairs_of_bf16(simde__m512 a, simde__m512 b) {
  const __m256i parts[] = {lanes<__m256i, uint16_t, float>(b, rounded_bf16),
                           lanes<__m256i, uint16_t, float>(a, rounded_bf16)};
  simde__m512bh both;
  __builtin_memcpy(&both, parts, sizeof(both));
  return both;
}

// The order of additions of GCC's and Clang's sequence: halves of 8, of 4, of 2, then the pair.
inline float sum(simde__m512 a) {
  const __m256 eight =
      _mm256_add_ps(simde_mm512_extractf32x8_ps(a, 1), simde_mm512_extractf32x8_ps(a, 0));
  const __m128 four = _mm_add_ps(_mm256_extractf128_ps(eight, 1), _mm256_castps256_ps128(eight));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// Only the lanes of the mask prefetch memory; SIMDe's store writes zeros to the others, and its
// load reads them.
inline void store_masked(void* to, __mmask16 mask, simde__m512 a) {
  float in[16];
  __builtin_memcpy(in, &a, sizeof(in));
  for (int i = 0; i < 16; ++i) {
    if (mask >> i & 1) __builtin_memcpy(static_cast<char*>(to) + 4 * i, in + i, 4);
  }
}
inline simde__m512 load_masked(__mmask16 mask, const void* from) {
  float out[16] = {};
  for (int i = 0; i < 16; ++i) {
    if (mask >> i & 1) __builtin_memcpy(out + i, static_cast<const char*>(from) + 4 * i, 4);
  }
  return simde_mm512_loadu_ps(out);
}

}  // namespace emulated

#define _mm512_cvtepi8_epi32(a) emulated::converted<int32_t, int8_t>(a)
#define _mm512_cvtepu8_epi32(a) emulated::converted<int32_t, uint8_t>(a)
#define _mm512_cvtepi32_epi16(a) emulated::converted<int16_t, int32_t, __m256i>(a)
#undef _mm512_cvtps_ph
#define _mm512_cvtps_ph(a, rounding) emulated::halves<rounding>(a)
#define _mm512_cvtne2ps_pbh(a, b) emulated::pairs_of_bf16(a, b)
#undef _mm512_mask_storeu_ps
#define _mm512_mask_storeu_ps(to, mask, a) emulated::store_masked(to, mask, a)
#undef _mm512_maskz_loadu_ps
#define _mm512_maskz_loadu_ps(mask, from) emulated::load_masked(mask, from)
#define _mm512_reduce_add_ps(a) emulated::sum(a)
#define _mm256_dpbusd_avx_epi32(sum, a, b) simde_mm256_dpbusd_epi32(sum, a, b)

// Sources ask for these to choose between a level's headers; SIMDe has been told the truth.
#define __AVX512F__ 1
#define __AVXVNNI__ 1
