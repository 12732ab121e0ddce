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

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>

#include "cuda/kernel_table.h"
#include "cuda/kv_layout.h"

namespace llama_rt::cuda {

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

// A pair rotated by an angle, with the same roundings wherever this is inlined.
__device__ __forceinline__ float2 rotate_pair(float a, float b, float cos, float sin) {
  return make_float2(__fsub_rn(__fmul_rn(a, cos), __fmul_rn(b, sin)),
                     __fadd_rn(__fmul_rn(a, sin), __fmul_rn(b, cos)));
}

// Where a row goes: the page of its sequence, in this layer, and the place in the page.
struct Place {
  std::byte* page;
  int p;
};
__device__ __forceinline__ Place place_of(const CacheTask& c, int row) {
  const int position = c.positions[row];
  const int32_t page = c.pages[c.segment_of[row] * c.page_stride + position / kPageTokens];
  return {c.base + page * c.page_bytes, position % static_cast<int>(kPageTokens)};
}

template <KvType kType>
__device__ __forceinline__ void store_element(std::byte* to, float x) {
  if constexpr (kType == KvType::kF32) *reinterpret_cast<float*>(to) = x;
  if constexpr (kType == KvType::kF16) *reinterpret_cast<__half*>(to) = __float2half_rn(x);
  if constexpr (kType == KvType::kBF16) {
    *reinterpret_cast<__nv_bfloat16*>(to) = __float2bfloat16_rn(x);
  }
}

}  // namespace llama_rt::cuda
