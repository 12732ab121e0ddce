// What every common kernel needs: the vectors of the ISA level being compiled (LLAMA_RT_SIMD),
// partial vectors and the exponential.
#pragma once

#include <cstdint>
#include <cstring>

#include LLAMA_RT_SIMD

namespace llama_rt::cpu::LLAMA_RT_LEVEL {

// The first `count` (< 16) floats at p, the rest zero.
inline F32x16 load_partial(const float* p, int64_t count) {
  float buffer[16] = {};
  std::memcpy(buffer, p, static_cast<size_t>(count) * sizeof(float));
  return load(buffer);
}

inline void store_partial(float* p, F32x16 a, int64_t count) {
  float buffer[16];
  store(buffer, a);
  std::memcpy(p, buffer, static_cast<size_t>(count) * sizeof(float));
}

// e^x within 2 ulp; arguments are clamped to [-87, 88], so the result is never 0, inf or denormal;
// NaN gives NaN.
// Cody-Waite reduction by ln 2 in two parts, then the Taylor-like minimax polynomial of Cephes
// expf.
inline F32x16 exp(F32x16 x) {
  x = min(set1(88.0f), max(set1(-87.0f), x));
  const F32x16 n = round_nearest(mul(x, set1(1.44269504088896341f)));
  F32x16 r = fma(n, set1(-0.693359375f), x);
  r = fma(n, set1(2.12194440e-4f), r);
  F32x16 p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = add(fma(p, mul(r, r), r), set1(1.0f));
  return mul(p, exp2_whole(n));
}

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
