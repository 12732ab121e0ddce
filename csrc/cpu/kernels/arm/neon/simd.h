// 128-bit registers: sixteen floats as four of them, with the names of kernels/scalar/simd.h, for
// the common kernels; and 4 of the 16 rows of a panel in one, with the names of avx2/simd.h, for
// kernels/gemm. Compiled for neon, with the dot product for neon_dotprod, and with that of unsigned
// weights and the matrix instructions for neon_i8mm. Conversions to and from half precision belong
// to every AArch64 processor.
#pragma once

#include <arm_neon.h>

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

// Panels: a register holds 4 of the 16 rows.

inline constexpr int kLanes = 4;  // rows of a register
inline constexpr int kParts = 4;  // registers of a panel's rows
#ifdef __ARM_FEATURE_DOTPROD
inline constexpr int kTokens = 4;  // inputs of a tile of quantized weights
constexpr int parts_of_tile(int /*tokens*/) { return 4; }
#else
inline constexpr int kTokens = 2;  // each sum of products takes two registers of 16-bit sums
constexpr int parts_of_tile(int tokens) { return tokens == 1 ? 4 : 2; }
#endif
inline constexpr int kFloatTokens = 6;
inline constexpr int kPairTokens = 4;  // of bf16 weights, two of which are held at a time
// Panels side by side in a tile of float weights: few tokens make few chains of sums.
constexpr int panels_of_tile(int tokens) { return tokens == 1 ? 4 : tokens == 2 ? 2 : 1; }

using F = float32x4_t;
using I = int32x4_t;

LLAMA_RT_INLINE F f_zero() { return vdupq_n_f32(0.0f); }
LLAMA_RT_INLINE F f_load(const float* p) { return vld1q_f32(p); }
LLAMA_RT_INLINE void f_store(float* p, F a) { vst1q_f32(p, a); }
LLAMA_RT_INLINE F f_set(float a) { return vdupq_n_f32(a); }
LLAMA_RT_INLINE F f_add(F a, F b) { return vaddq_f32(a, b); }
LLAMA_RT_INLINE F f_mul(F a, F b) { return vmulq_f32(a, b); }
LLAMA_RT_INLINE F f_fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
LLAMA_RT_INLINE F f_of(I a) { return vcvtq_f32_s32(a); }
LLAMA_RT_INLINE F f_half(const std::byte* p) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const uint16_t*>(p))));
}
// Part kPart of the bytes of 16 rows: one look-up puts each at the top of its word, and a
// conversion from a fixed point behind 24 bits makes it a float, exactly.
template <int kPart>
LLAMA_RT_INLINE uint32x4_t bytes_at_top(const std::byte* p) {
  constexpr uint8_t kNo = 255;  // gives a zero
  constexpr uint8_t kAt = kLanes * kPart;
  const uint8x16_t places = {kNo, kNo, kNo, kAt,     kNo, kNo, kNo, kAt + 1,
                             kNo, kNo, kNo, kAt + 2, kNo, kNo, kNo, kAt + 3};
  const uint8x16_t bytes = vld1q_u8(reinterpret_cast<const uint8_t*>(p));
  return vreinterpretq_u32_u8(vqtbl1q_u8(bytes, places));
}
template <int kPart>
LLAMA_RT_INLINE F f_u8(const std::byte* p) {
  return vcvtq_n_f32_u32(bytes_at_top<kPart>(p), 24);
}
template <int kPart>
LLAMA_RT_INLINE F f_i8(const std::byte* p) {
  return vcvtq_n_f32_s32(vreinterpretq_s32_u32(bytes_at_top<kPart>(p)), 24);
}
// The even and the odd k of a vector of bf16 pairs.
LLAMA_RT_INLINE F f_bf16_even(I a) { return vreinterpretq_f32_s32(vshlq_n_s32(a, 16)); }
LLAMA_RT_INLINE F f_bf16_odd(I a) {
  return vreinterpretq_f32_s32(vandq_s32(a, vdupq_n_s32(-65536)));
}

LLAMA_RT_INLINE uint8x16_t u8_of(I a) { return vreinterpretq_u8_s32(a); }
LLAMA_RT_INLINE int8x16_t i8_of(I a) { return vreinterpretq_s8_s32(a); }
LLAMA_RT_INLINE I i_of(uint8x16_t a) { return vreinterpretq_s32_u8(a); }

LLAMA_RT_INLINE I i_zero() { return vdupq_n_s32(0); }
LLAMA_RT_INLINE I i_load(const std::byte* p) {
  return i_of(vld1q_u8(reinterpret_cast<const uint8_t*>(p)));
}
LLAMA_RT_INLINE I i_set(int32_t a) { return vdupq_n_s32(a); }
LLAMA_RT_INLINE I i_and(I a, I b) { return vandq_s32(a, b); }
LLAMA_RT_INLINE I i_bytes_and(I a, int8_t mask) {
  return i_of(vandq_u8(u8_of(a), vdupq_n_u8(static_cast<uint8_t>(mask))));
}
// a with the bits of `mask` of b's bytes added.
LLAMA_RT_INLINE I i_merge(I a, I b, int8_t mask) {
  return i_of(vbslq_u8(vdupq_n_u8(static_cast<uint8_t>(mask)), u8_of(b), u8_of(a)));
}
// Bits moved up (or, negative, down) within 16-bit words; the caller masks what crosses a byte.
template <int kBits>
LLAMA_RT_INLINE I i_move(I a) {
  if constexpr (kBits > 0) {
    return vreinterpretq_s32_u16(vshlq_n_u16(vreinterpretq_u16_s32(a), kBits));
  } else if constexpr (kBits < 0) {
    return vreinterpretq_s32_u16(vshrq_n_u16(vreinterpretq_u16_s32(a), -kBits));
  } else {
    return a;
  }
}
// Bits [kAt, kAt + kCount) of each byte.
template <int kAt, int kCount>
LLAMA_RT_INLINE I i_bits(I a) {
  if constexpr (kAt > 0) a = i_of(vshrq_n_u8(u8_of(a), kAt));
  if constexpr (kAt + kCount < 8) a = i_bytes_and(a, (1 << kCount) - 1);
  return a;
}
// Bytes q + 128 as q.
LLAMA_RT_INLINE I i_signed(I a) { return i_of(veorq_u8(u8_of(a), vdupq_n_u8(128))); }
// Entries of a table of 16 bytes.
LLAMA_RT_INLINE I i_lookup(const uint8_t* table, I codes) {
  return i_of(vqtbl1q_u8(vld1q_u8(table), u8_of(codes)));
}
template <int kBits>
LLAMA_RT_INLINE I i_times(I a) {  // a * 2^kBits, exact
  if constexpr (kBits > 0) {
    return vshlq_n_s32(a, kBits);
  } else if constexpr (kBits < 0) {
    return vshrq_n_s32(a, -kBits);
  } else {
    return a;
  }
}
// 16-bit pairs: the high bytes, signed; two 32-bit values as one pair; products summed per pair.
LLAMA_RT_INLINE I i_high_bytes(I a) {
  return vreinterpretq_s32_s16(vshrq_n_s16(vreinterpretq_s16_s32(a), 8));
}
LLAMA_RT_INLINE I i_pairs(I low, I high) { return vsliq_n_s32(low, high, 16); }
LLAMA_RT_INLINE I i_multiply_add(I a, I b) {
  const int16x8_t x = vreinterpretq_s16_s32(a), y = vreinterpretq_s16_s32(b);
  return vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y));
}

// The whole-number sums of a group, and what they are summed in within sections of dot groups:
// open, step for each quad with its four inputs, close.
#ifdef __ARM_FEATURE_DOTPROD
using Sum = I;
using Section = I;
template <int kBits>
inline constexpr int kSection = 8;
LLAMA_RT_INLINE Sum sum_from(I start) { return start; }
LLAMA_RT_INLINE I sum_of(Sum sum) { return sum; }
LLAMA_RT_INLINE Section dot_open(Sum total) { return total; }
LLAMA_RT_INLINE Sum dot_close(Sum, Section section) { return section; }
#ifdef __ARM_FEATURE_MATMUL_INT8
inline constexpr bool kSignedBytes = false;  // whether 8-bit codes are multiplied as signed
#else
inline constexpr bool kSignedBytes = true;
#endif
// A load of sixteen inputs serves four dot groups.
template <int kBits, int kQuad>
LLAMA_RT_INLINE Section dot_step(Section sum, I codes, const int8_t* q) {
  const int8x16_t inputs = vld1q_s8(q + 16 * (kQuad / 4));
  if constexpr (kBits < 8) return vdotq_laneq_s32(sum, i8_of(codes), inputs, kQuad % 4);
#ifdef __ARM_FEATURE_MATMUL_INT8
  return vusdotq_laneq_s32(sum, u8_of(codes), inputs, kQuad % 4);
#else
  return vdotq_laneq_s32(sum, i8_of(codes), inputs, kQuad % 4);
#endif
}
#else
// A step adds a product of |x| <= 127 to each 16-bit sum, so that as many as fit below 2^15 make a
// section. 8-bit codes are signed here and need no offset. What two registers have of a row, two
// sums each, meets at the end.
inline constexpr bool kSignedBytes = true;
template <int kBits>
inline constexpr int kSection = kBits <= 5   ? 8
                                : kBits == 6 ? 4
                                             : 2;
struct Sum {
  int32x4_t low, high;
};
struct Section {
  int16x8_t low, high;
};
LLAMA_RT_INLINE Sum sum_from(I start) {  // once per row
  const I once = vandq_s32(start, vreinterpretq_s32_u64(vdupq_n_u64(0xffffffffu)));
  return {once, once};
}
LLAMA_RT_INLINE I sum_of(Sum sum) { return vpaddq_s32(sum.low, sum.high); }
LLAMA_RT_INLINE Section dot_open(Sum) { return {vdupq_n_s16(0), vdupq_n_s16(0)}; }
LLAMA_RT_INLINE Sum dot_close(Sum total, Section section) {
  return {vpadalq_s16(total.low, section.low), vpadalq_s16(total.high, section.high)};
}
template <int kBits, int kQuad>
LLAMA_RT_INLINE Section dot_step(Section sum, I codes, const int8_t* q) {
  const int8x16_t weights = i8_of(codes);
  int32_t quad;
  __builtin_memcpy(&quad, q + 4 * kQuad, sizeof(quad));
  const int8x16_t inputs = vreinterpretq_s8_s32(vdupq_n_s32(quad));
  return {vmlal_s8(sum.low, vget_low_s8(weights), vget_low_s8(inputs)),
          vmlal_high_s8(sum.high, weights, inputs)};
}
#endif

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
