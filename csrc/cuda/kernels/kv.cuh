// How one KV head's keys and values of a page (kPageTokens positions) lie in device memory, so that
// any run of 16 positions is one contiguous piece of keys and one of values, and both are what
// tensor cores want: 8 x 8 cores of 128 bytes, the eight elements of a row along the reduction.
//
//   16-bit types   keys    [p/8][width/8] cores of 8 positions x 8 features
//                  values  [p/16][width/8][2] cores of 8 features x 8 positions (transposed)
//   8-bit type     keys    [p/8][width/16] cores of 8 positions x 16 features
//                  values  [p/16][width/8] cores of 8 features x 16 positions, then
//                  scales of keys and of values, f32, [p/16][width/32][16 positions] each
//   f32            keys    [width][p], values [p][width]
//
// Sixteen 8-bit codes lie in the order in which a lane of mma.m16n8k16 takes them: bytes 4 t .. of
// a row are its elements 2 t, 2 t + 1, 2 t + 8, 2 t + 9. The width is e rounded up to one that
// kernels are made for; the rest is zeros.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/kernel_table.h"

namespace llama_rt::cuda {

inline constexpr int kRun = 16;         // positions that are contiguous
inline constexpr int kScaleGroup = 32;  // features that share a scale in the 8-bit type
inline constexpr int kMaxWidth = 256;

__host__ __device__ constexpr int kv_width(KvType type, int64_t e) {
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
__host__ __device__ constexpr int scale_bytes(int width) {
  return kType == KvType::kQ8 ? width / kScaleGroup * kRun * 4 : 0;
}

// Offsets in bytes within a head's share of a page.
template <KvType kType>
__host__ __device__ constexpr int64_t values_at(int width) {
  return int64_t{kPageTokens} * width * kKvBytes<kType>;
}
template <KvType kType>
__host__ __device__ constexpr int64_t key_scales_at(int width) {
  return 2 * values_at<kType>(width);
}
template <KvType kType>
__host__ __device__ constexpr int64_t value_scales_at(int width) {
  return key_scales_at<kType>(width) + kPageTokens / kRun * scale_bytes<kType>(width);
}
template <KvType kType>
__host__ __device__ constexpr int64_t head_share(int width) {
  return value_scales_at<kType>(width) + kPageTokens / kRun * scale_bytes<kType>(width);
}

// Place of element `i` of sixteen 8-bit codes.
__host__ __device__ constexpr int code_place(int i) { return i % 8 / 2 * 4 + i / 8 * 2 + i % 2; }

// Bytes from the start of the keys or values to one element.
template <KvType kType>
__host__ __device__ constexpr int64_t key_at(int width, int p, int f) {
  if constexpr (kType == KvType::kF32) return (int64_t{f} * kPageTokens + p) * 4;
  if constexpr (kType == KvType::kQ8) {
    return (p / 8 * (width / 16) + f / 16) * 128 + p % 8 * 16 + code_place(f % 16);
  }
  return (p / 8 * (width / 8) + f / 8) * 128 + p % 8 * 16 + f % 8 * 2;
}
template <KvType kType>
__host__ __device__ constexpr int64_t value_at(int width, int p, int f) {
  if constexpr (kType == KvType::kF32) return (int64_t{p} * width + f) * 4;
  if constexpr (kType == KvType::kQ8) {
    return (p / 16 * (width / 8) + f / 8) * 128 + f % 8 * 16 + code_place(p % 16);
  }
  return ((p / 16 * (width / 8) + f / 8) * 2 + p / 8 % 2) * 128 + f % 8 * 16 + p % 8 * 2;
}

}  // namespace llama_rt::cuda
