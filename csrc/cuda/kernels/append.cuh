// One head's values on their way into the cache: their rotation, and where a position lies.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/kernels/kv.cuh"

namespace llama_rt::cuda {

// A pair turned by an angle, with the same roundings wherever this is inlined.
__device__ __forceinline__ float2 turned(float a, float b, float cos, float sin) {
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
__device__ __forceinline__ void put(std::byte* to, float x) {
  if constexpr (kType == KvType::kF32) *reinterpret_cast<float*>(to) = x;
  if constexpr (kType == KvType::kF16) *reinterpret_cast<__half*>(to) = __float2half_rn(x);
  if constexpr (kType == KvType::kBF16) {
    *reinterpret_cast<__nv_bfloat16*>(to) = __float2bfloat16_rn(x);
  }
}

}  // namespace llama_rt::cuda
