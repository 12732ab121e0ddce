// What the encoders of blocks share: runs cut into batches of sixteen groups, and codes of a group.
#pragma once

#include "core/dtype.h"
#include "cpu/kernels/common/scale_search.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {

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

// Calls `encode(x, blocks)` for every kBatch blocks; the last batch is filled up with zeros.
template <class Block, int kElements, int kBatch, class Encode>
inline void encode_batches(const float* x, int64_t count, std::byte* out, Encode encode) {
  auto* blocks = reinterpret_cast<Block*>(out);
  constexpr int64_t kStep = int64_t{kElements} * kBatch;
  for (; count >= kStep; count -= kStep, x += kStep, blocks += kBatch) encode(x, blocks);
  if (count == 0) return;
  float rest[kStep] = {};
  Block encoded[kBatch];
  std::memcpy(rest, x, static_cast<size_t>(count) * sizeof(float));
  encode(rest, encoded);
  std::memcpy(blocks, encoded, static_cast<size_t>(count / kElements) * sizeof(Block));
}

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
