// Sixteen floats as four 128-bit registers; the names of tiers/scalar/vec.h. Conversions to and
// from half precision belong to every AArch64 processor.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "core/blocks.h"

namespace llama_rt::cpu::LLAMA_RT_TIER {

#include "core/decode.inl"
#include "core/encode.inl"

// Tokens (or query rows) that a register tile of the generic kernels holds beside four vectors.
inline constexpr int kTileRows = 1;
// Query rows times vectors of positions or features that attention sums at once.
inline constexpr int kQueryTile = 6;

struct F32x16 {
  float32x4_t quarter[4];
};

#define LLAMA_RT_QUARTERS(expression)                      \
  F32x16 r;                                                \
  for (int i = 0; i < 4; ++i) r.quarter[i] = (expression); \
  return r
inline F32x16 set1(float a) { LLAMA_RT_QUARTERS(vdupq_n_f32(a)); }
inline F32x16 zero() { return set1(0.0f); }
inline F32x16 load(const float* p) { LLAMA_RT_QUARTERS(vld1q_f32(p + 4 * i)); }
inline void store(float* p, F32x16 a) {
  for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, a.quarter[i]);
}
inline F32x16 add(F32x16 a, F32x16 b) { LLAMA_RT_QUARTERS(vaddq_f32(a.quarter[i], b.quarter[i])); }
inline F32x16 sub(F32x16 a, F32x16 b) { LLAMA_RT_QUARTERS(vsubq_f32(a.quarter[i], b.quarter[i])); }
inline F32x16 mul(F32x16 a, F32x16 b) { LLAMA_RT_QUARTERS(vmulq_f32(a.quarter[i], b.quarter[i])); }
inline F32x16 div(F32x16 a, F32x16 b) { LLAMA_RT_QUARTERS(vdivq_f32(a.quarter[i], b.quarter[i])); }
// The second operand where either is NaN, as on x86: fmax and fmin would prefer or drop the NaN.
inline float32x4_t max(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
inline float32x4_t min(float32x4_t a, float32x4_t b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
inline F32x16 max(F32x16 a, F32x16 b) { LLAMA_RT_QUARTERS(max(a.quarter[i], b.quarter[i])); }
inline F32x16 min(F32x16 a, F32x16 b) { LLAMA_RT_QUARTERS(min(a.quarter[i], b.quarter[i])); }
inline F32x16 absolute(F32x16 a) { LLAMA_RT_QUARTERS(vabsq_f32(a.quarter[i])); }
inline F32x16 select_greater(F32x16 a, F32x16 b, F32x16 yes, F32x16 no) {
  LLAMA_RT_QUARTERS(
      vbslq_f32(vcgtq_f32(a.quarter[i], b.quarter[i]), yes.quarter[i], no.quarter[i]));
}
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  LLAMA_RT_QUARTERS(vfmaq_f32(c.quarter[i], a.quarter[i], b.quarter[i]));
}
inline F32x16 load_f16(const uint16_t* p) {
  LLAMA_RT_QUARTERS(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))));
}
inline F32x16 load_bf16(const uint16_t* p) {
  LLAMA_RT_QUARTERS(vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16)));
}
inline F32x16 load_i8(const int8_t* p) {
  const int8x16_t bytes = vld1q_s8(p);
  const int16x8_t words[2] = {vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes)};
  LLAMA_RT_QUARTERS(vcvtq_f32_s32(i % 2 == 0 ? vmovl_s16(vget_low_s16(words[i / 2]))
                                             : vmovl_high_s16(words[i / 2])));
}
inline void store_f16(uint16_t* p, F32x16 a) {
  for (int i = 0; i < 4; ++i) {
    vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.quarter[i])));
  }
}
// Nearest even; NaN kept quiet.
inline uint16x4_t narrow_bf16(float32x4_t a) {
  const uint32x4_t bits = vreinterpretq_u32_f32(a);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
  const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
  return vshrn_n_u32(vbslq_u32(vceqq_f32(a, a), rounded, quiet), 16);
}
inline void store_bf16(uint16_t* p, F32x16 a) {
  for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, narrow_bf16(a.quarter[i]));
}
// The nearest whole numbers, ties to even, for |a| < 127.5.
inline void store_i8(int8_t* p, F32x16 a) {
  int32x4_t whole[4];
  for (int i = 0; i < 4; ++i) whole[i] = vcvtnq_s32_f32(a.quarter[i]);
  const int16x8_t low = vcombine_s16(vmovn_s32(whole[0]), vmovn_s32(whole[1]));
  const int16x8_t high = vcombine_s16(vmovn_s32(whole[2]), vmovn_s32(whole[3]));
  vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}
inline bool any_nan(F32x16 a) {
  uint32x4_t ordered = vceqq_f32(a.quarter[0], a.quarter[0]);
  for (int i = 1; i < 4; ++i) {
    ordered = vandq_u32(ordered, vceqq_f32(a.quarter[i], a.quarter[i]));
  }
  return vminvq_u32(ordered) == 0;
}
inline F32x16 round_nearest(F32x16 a) { LLAMA_RT_QUARTERS(vrndnq_f32(a.quarter[i])); }
inline F32x16 exp2_whole(F32x16 a) {
  LLAMA_RT_QUARTERS(vreinterpretq_f32_s32(
      vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(a.quarter[i]), vdupq_n_s32(127)), 23)));
}
#undef LLAMA_RT_QUARTERS

inline float reduce_add(F32x16 a) {
  const float32x4_t four =
      vaddq_f32(vaddq_f32(a.quarter[0], a.quarter[2]), vaddq_f32(a.quarter[1], a.quarter[3]));
  return vpadds_f32(vadd_f32(vget_low_f32(four), vget_high_f32(four)));
}
inline float reduce_max(F32x16 a) {
  const float32x4_t four = max(max(a.quarter[0], a.quarter[2]), max(a.quarter[1], a.quarter[3]));
  float lane[4];
  vst1q_f32(lane, max(four, vextq_f32(four, four, 2)));
  return lane[0] > lane[1] ? lane[0] : lane[1];
}

}  // namespace llama_rt::cpu::LLAMA_RT_TIER
