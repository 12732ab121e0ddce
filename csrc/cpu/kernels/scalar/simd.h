// Sixteen floats as plain C++: what the common kernels are written in. The simd.h of every ISA
// level has the same names; this one leaves the vectors to the compiler.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/blocks.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {

#include "core/codec.inl"

// Tokens (or query rows) that a register tile of the common kernels holds beside four vectors.
inline constexpr int kTileRows = 1;
// Query rows times vectors of positions or features that attention sums at once.
inline constexpr int kQueryTile = 4;

struct F32x16 {
  float lane[16];
};

inline F32x16 set1(float a) {
  F32x16 r;
  for (float& x : r.lane) x = a;
  return r;
}
inline F32x16 zero() { return set1(0.0f); }
inline F32x16 load(const float* p) {
  F32x16 r;
  std::memcpy(r.lane, p, sizeof(r.lane));
  return r;
}
inline void store(float* p, F32x16 a) { std::memcpy(p, a.lane, sizeof(a.lane)); }

#define LLAMA_RT_LANES(expression)                       \
  F32x16 r;                                              \
  for (int i = 0; i < 16; ++i) r.lane[i] = (expression); \
  return r
inline F32x16 add(F32x16 a, F32x16 b) { LLAMA_RT_LANES(a.lane[i] + b.lane[i]); }
inline F32x16 sub(F32x16 a, F32x16 b) { LLAMA_RT_LANES(a.lane[i] - b.lane[i]); }
inline F32x16 mul(F32x16 a, F32x16 b) { LLAMA_RT_LANES(a.lane[i] * b.lane[i]); }
inline F32x16 div(F32x16 a, F32x16 b) { LLAMA_RT_LANES(a.lane[i] / b.lane[i]); }
inline F32x16 max(F32x16 a, F32x16 b) {
  LLAMA_RT_LANES(a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]);
}
inline F32x16 min(F32x16 a, F32x16 b) {
  LLAMA_RT_LANES(a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]);
}
inline F32x16 absolute(F32x16 a) { LLAMA_RT_LANES(a.lane[i] < 0 ? -a.lane[i] : a.lane[i]); }
// a > b ? yes : no
inline F32x16 select_greater(F32x16 a, F32x16 b, F32x16 yes, F32x16 no) {
  LLAMA_RT_LANES(a.lane[i] > b.lane[i] ? yes.lane[i] : no.lane[i]);
}
// a * b + c; rounded once where the ISA level can
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  LLAMA_RT_LANES(a.lane[i] * b.lane[i] + c.lane[i]);
}
inline F32x16 load_f16(const uint16_t* p) { LLAMA_RT_LANES(half_to_float(p[i])); }
inline F32x16 load_bf16(const uint16_t* p) { LLAMA_RT_LANES(bf16_to_float(p[i])); }
inline F32x16 load_i8(const int8_t* p) { LLAMA_RT_LANES(static_cast<float>(p[i])); }
inline void store_f16(uint16_t* p, F32x16 a) {
  for (int i = 0; i < 16; ++i) p[i] = float_to_half(a.lane[i]);
}
inline void store_bf16(uint16_t* p, F32x16 a) {
  for (int i = 0; i < 16; ++i) p[i] = float_to_bf16(a.lane[i]);
}
// Nearest whole number, ties to even, for |a| < 2^22.
inline F32x16 round_nearest(F32x16 a) { LLAMA_RT_LANES((a.lane[i] + 12582912.0f) - 12582912.0f); }
// Those of |a| < 127.5.
inline void store_i8(int8_t* p, F32x16 a) {
  a = round_nearest(a);
  for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(a.lane[i]);
}
inline bool any_nan(F32x16 a) {
  for (float x : a.lane) {
    if (x != x) return true;
  }
  return false;
}
// 2^a for whole a in [-126, 127]
inline F32x16 exp2_whole(F32x16 a) {
  LLAMA_RT_LANES(bits_to_float(static_cast<uint32_t>(static_cast<int32_t>(a.lane[i]) + 127) << 23));
}
#undef LLAMA_RT_LANES

// Sums and maxima over lanes always pair lane i with i + 8, then i + 4, ...: one order on all
// levels.
inline float reduce_add(F32x16 a) {
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) a.lane[i] += a.lane[i + half];
  }
  return a.lane[0];
}
inline float reduce_max(F32x16 a) {
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) {
      if (a.lane[i + half] > a.lane[i]) a.lane[i] = a.lane[i + half];
    }
  }
  return a.lane[0];
}

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
