// What the encoders of blocks share: the search of scales, the codes of a group, and rows cut into
// batches of sixteen groups.
//
// Scales of quantized groups, sixteen groups at a time: one lane each, so that no sum crosses lanes
// and every ISA level gives the same bits (products and sums are rounded apart for that too).
//
// Each fit minimises sum w (x - decoded x)^2 over a band of candidate steps; for every candidate
// the codes are rounded and the best scale for those codes is found by least squares.
#pragma once

#include <cstring>

#include "core/dtype.h"
#include "cpu/kernels/common/math.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {

// Element i of sixteen groups of kCount: lane g of values[i] is x[g * kCount + i].
template <int kCount>
struct Groups {
  F32x16 values[kCount];

  explicit Groups(const float* x) {
    float columns[kCount][16];
    for (int g = 0; g < 16; ++g) {
      for (int i = 0; i < kCount; ++i) columns[i][g] = x[g * kCount + i];
    }
    for (int i = 0; i < kCount; ++i) values[i] = load(columns[i]);
  }
};

// Multiplied and added without fusing.
inline F32x16 muladd(F32x16 a, F32x16 b, F32x16 c) { return add(mul(a, b), c); }

// The nearest whole number within [low, high]; `low` for NaN.
inline F32x16 nearest(F32x16 v, F32x16 low, F32x16 high) {
  return round_nearest(min(max(v, low), high));
}

// 1 / a; 0 where |a| is too small to divide by.
inline F32x16 inverse_of(F32x16 a) {
  const F32x16 tiny = set1(1e-30f);
  const F32x16 safe = select_greater(absolute(a), tiny, a, set1(1.0f));
  return select_greater(absolute(a), tiny, div(set1(1.0f), safe), zero());
}

// How much an error at x counts: x^2, since large weights matter more than small ones, and twice
// the group's mean square, so that small ones do not vanish. Better than llama.cpp's quantizers
// then in plain and in weighted error alike.
// Where the importance of each value is given (an importance matrix), that alone counts.
template <int kCount>
inline void error_weights(const F32x16 (&x)[kCount], const float* importance, F32x16 (&w)[kCount]) {
  if (importance) {
    const Groups<kCount> given(importance);
    for (int i = 0; i < kCount; ++i) w[i] = given.values[i];
    return;
  }
  F32x16 squares = zero();
  for (const F32x16 v : x) squares = muladd(v, v, squares);
  const F32x16 base = mul(squares, set1(2.0f / kCount));
  for (int i = 0; i < kCount; ++i) w[i] = muladd(x[i], x[i], base);
}

// x ~ scale * q with q in [-levels, levels - 1]. The extreme value may lie on either end, so the
// scale is signed.
template <int kCount>
inline F32x16 fit_symmetric(const F32x16 (&x)[kCount], const F32x16 (&w)[kCount], float levels) {
  F32x16 extreme = zero(), magnitude = zero();
  for (const F32x16 v : x) {
    const F32x16 a = absolute(v);
    extreme = select_greater(a, magnitude, v, extreme);
    magnitude = max(a, magnitude);
  }
  const F32x16 inverse_extreme = inverse_of(extreme);
  const F32x16 low = set1(-levels), high = set1(levels - 1.0f);
  F32x16 best_scale = zero(), best_gain = zero();
  // Steps that put the extreme near -levels, then those that put it near levels - 1.
  constexpr int kSteps = 10;
  for (int step = 0; step < 2 * kSteps; ++step) {
    const float shift = -0.9f + 0.2f * static_cast<float>(step % kSteps);
    const float end = step < kSteps ? -(levels + shift) : levels - 1.0f + shift;
    const F32x16 inverse = mul(set1(end), inverse_extreme);
    F32x16 xq = zero(), qq = zero();
    for (int i = 0; i < kCount; ++i) {
      const F32x16 q = nearest(mul(x[i], inverse), low, high);
      const F32x16 wq = mul(w[i], q);
      xq = muladd(wq, x[i], xq);
      qq = muladd(wq, q, qq);
    }
    // The error is sum(w x^2) - xq^2 / qq, so the larger the last term the better.
    const F32x16 scale = mul(xq, inverse_of(qq));
    const F32x16 gain = mul(xq, scale);
    best_scale = select_greater(gain, best_gain, scale, best_scale);
    best_gain = select_greater(gain, best_gain, gain, best_gain);
  }
  return best_scale;
}

struct AffineFit {
  F32x16 scale;  // >= 0
  F32x16 min;    // x ~ scale * q - min
};

// x ~ scale * q - min with q in [0, levels]; `lifted`: min may be negative.
template <int kCount>
inline AffineFit fit_affine(const F32x16 (&x)[kCount], const F32x16 (&w)[kCount], float levels,
                            bool lifted) {
  F32x16 low = x[0], high = x[0], sum_w = zero(), sum_x = zero();
  for (int i = 0; i < kCount; ++i) {
    low = min(x[i], low);
    high = max(x[i], high);
    sum_w = add(sum_w, w[i]);
    sum_x = muladd(w[i], x[i], sum_x);
  }
  if (!lifted) low = min(low, zero());
  AffineFit best{mul(sub(high, low), set1(1.0f / levels)), sub(zero(), low)};
  F32x16 best_gain = set1(-1.0f);
  for (int step = 0; step <= 20; ++step) {
    // The best min so far is where the next candidate's codes begin.
    low = sub(zero(), best.min);
    const F32x16 inverse =
        mul(set1(levels - 1.0f + 0.1f * static_cast<float>(step)), inverse_of(sub(high, low)));
    F32x16 q1 = zero(), q2 = zero(), xq = zero();
    for (int i = 0; i < kCount; ++i) {
      const F32x16 q = nearest(mul(sub(x[i], low), inverse), zero(), set1(levels));
      const F32x16 wq = mul(w[i], q);
      q1 = add(q1, wq);
      q2 = muladd(wq, q, q2);
      xq = muladd(wq, x[i], xq);
    }
    const F32x16 determinant = inverse_of(sub(mul(sum_w, q2), mul(q1, q1)));
    AffineFit fit{mul(sub(mul(sum_w, xq), mul(sum_x, q1)), determinant),
                  mul(sub(mul(q1, xq), mul(q2, sum_x)), determinant)};
    if (!lifted) {  // the stored min cannot lift values above zero: without one then
      fit.scale = select_greater(zero(), fit.min, mul(xq, inverse_of(q2)), fit.scale);
      fit.min = max(fit.min, zero());
    }
    // The error is sum(w x^2) - gain.
    F32x16 gain = sub(mul(fit.scale, xq), mul(fit.min, sum_x));
    gain = select_greater(fit.scale, zero(), gain, set1(-1.0f));
    best.scale = select_greater(gain, best_gain, fit.scale, best.scale);
    best.min = select_greater(gain, best_gain, fit.min, best.min);
    best_gain = select_greater(gain, best_gain, gain, best_gain);
  }
  return best;
}

// Codes of `count` values (a multiple of 16) under one scale, offset so that they are unsigned:
// the nearest whole number to (x + min) / scale, within [low, high], minus low.
inline void round_codes(const float* x, int count, float scale, float min, float low, float high,
                        uint8_t* codes) {
  const F32x16 inverse = set1(scale != 0.0f ? 1.0f / scale : 0.0f);
  for (int i = 0; i < count; i += 16) {
    const F32x16 v = mul(add(load(x + i), set1(min)), inverse);
    float whole[16];
    store(whole, sub(nearest(v, set1(low), set1(high)), set1(low)));
    for (int j = 0; j < 16; ++j) codes[i + j] = static_cast<uint8_t>(static_cast<int>(whole[j]));
  }
}

// What is encoded, and how much an error of each value counts; null: see error_weights.
struct Values {
  const float* x;
  const float* importance;
};

// Calls `encode(values, blocks)` for every kBatch blocks; the last batch is filled up with zeros.
template <class Block, int kElements, int kBatch, class Encode>
inline void encode_batches(Values from, int64_t count, std::byte* out, Encode encode) {
  auto* blocks = reinterpret_cast<Block*>(out);
  constexpr int64_t kStep = int64_t{kElements} * kBatch;
  for (; count >= kStep; count -= kStep, blocks += kBatch) {
    encode(from, blocks);
    from.x += kStep;
    if (from.importance) from.importance += kStep;
  }
  if (count == 0) return;
  float rest[kStep] = {}, rest_importance[kStep] = {};
  Block encoded[kBatch];
  const auto bytes = static_cast<size_t>(count) * sizeof(float);
  std::memcpy(rest, from.x, bytes);
  if (from.importance) std::memcpy(rest_importance, from.importance, bytes);
  encode({rest, from.importance ? rest_importance : nullptr}, encoded);
  std::memcpy(blocks, encoded, static_cast<size_t>(count / kElements) * sizeof(Block));
}

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
