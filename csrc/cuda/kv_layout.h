// Bytes of one KV head's keys and values in a page of the cache; kernels/kv.cuh says how they lie.
// Plain C++: memory is estimated where there is no CUDA, too.
#pragma once

#include <cstdint>

#include "backend/specs.h"

namespace llama_rt::cuda {

inline constexpr int kRun = 16;         // positions that are contiguous
inline constexpr int kScaleGroup = 32;  // features that share a scale in the 8-bit type
inline constexpr int kMaxWidth = 256;

constexpr int kv_width(KvType type, int64_t e) {
  const int width = static_cast<int>((e + 31) / 32 * 32);
  if (type == KvType::kF32 || width <= 128) return width;
  return width <= 192 ? 192 : 256;
}

// Bytes of an element, and of the scales of 16 positions of a head's keys.
template <KvType kType>
inline constexpr int kKvBytes = kType == KvType::kF32  ? 4
                                : kType == KvType::kQ8 ? 1
                                                       : 2;
template <KvType kType>
constexpr int scale_bytes(int width) {
  return kType == KvType::kQ8 ? width / kScaleGroup * kRun * 4 : 0;
}

// Offsets in bytes within a head's share of a page.
template <KvType kType>
constexpr int64_t values_at(int width) {
  return int64_t{kPageTokens} * width * kKvBytes<kType>;
}
template <KvType kType>
constexpr int64_t key_scales_at(int width) {
  return 2 * values_at<kType>(width);
}
template <KvType kType>
constexpr int64_t value_scales_at(int width) {
  return key_scales_at<kType>(width) + kPageTokens / kRun * scale_bytes<kType>(width);
}
template <KvType kType>
constexpr int64_t head_share(int width) {
  return value_scales_at<kType>(width) + kPageTokens / kRun * scale_bytes<kType>(width);
}

// Of either type; a multiple of 128.
constexpr int64_t kv_head_bytes(KvType type, int64_t e) {
  const int width = kv_width(type, e);
  switch (type) {
    case KvType::kF32:
      return head_share<KvType::kF32>(width);
    case KvType::kF16:
      return head_share<KvType::kF16>(width);
    case KvType::kBF16:
      return head_share<KvType::kBF16>(width);
    case KvType::kQ8:
      return head_share<KvType::kQ8>(width);
  }
  return 0;
}

}  // namespace llama_rt::cuda
