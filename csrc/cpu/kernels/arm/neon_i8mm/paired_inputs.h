// Inputs of two tokens side by side, in the order in which matrix instructions take and give them.
#pragma once

#include <cstring>

#include LLAMA_RT_SIMD
#include "cpu/kernels/gemm/panel.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {

// A group of 32 inputs of two tokens. Block order is [row 0 of t0, row 0 of t1, row 1 of t0, row 1
// of t1], so what belongs to a token is there twice.
struct alignas(16) Q8Pair {
  int8_t q[4][16];  // 8 k of the first token, 8 of the second
  float d[4];
  float scaled_sum[4];
  int32_t sum8[4];
  int32_t half_sum8[2][4];
  int16_t half_sums[8];
};
static_assert(sizeof(Q8Pair) == 160);

// `second` null: there is no second token, and its products are zeros.
inline void pair_inputs(const Q8Record& first, const Q8Record* second, Q8Pair* pair) {
  static constexpr Q8Record kNone{};
  const Q8Record& other = second ? *second : kNone;
  for (int i = 0; i < 4; ++i) {
    vst1q_s8(pair->q[i], vcombine_s8(vld1_s8(first.q + 8 * i), vld1_s8(other.q + 8 * i)));
  }
  for (int i = 0; i < 4; ++i) {
    const Q8Record& record = i % 2 == 0 ? first : other;
    pair->d[i] = record.d;
    pair->scaled_sum[i] = record.scaled_sum;
    pair->sum8[i] = record.sum8;
    pair->half_sum8[0][i] = record.half_sum8[0];
    pair->half_sum8[1][i] = record.half_sum8[1];
    std::memcpy(pair->half_sums + 2 * i, record.half_sum, sizeof(record.half_sum));
  }
}

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
