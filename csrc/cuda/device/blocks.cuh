// Single elements of stored blocks on the device. Every quantized format is affine within a group:
// y = scale * code - min, so three short functions per format are all that decoding, embedding and
// packing need. Rounded as core/codec.inl rounds: one product, one difference.
#pragma once

#include <cuda_fp16.h>

#include "core/blocks.h"
#include "core/dtype.h"

namespace llama_rt::cuda {

// Storage struct and elements per block of a dtype.
template <DType>
struct Stored;
#define LLAMA_RT_STORED(id, name, block, elements, ...) \
  template <>                                           \
  struct Stored<DType::k##id> {                         \
    using Block = block;                                \
    static constexpr int kElements = elements;          \
  };
LLAMA_RT_DTYPES(LLAMA_RT_STORED)
#undef LLAMA_RT_STORED

__device__ __forceinline__ float half_to_float(uint16_t bits) {
  return __half2float(__ushort_as_half(bits));
}

// ---- Codes: element e of a block, its offset taken off -----------------------------------------

// Nibble e of a legacy block: the low ones are elements 0 to 15.
__device__ __forceinline__ int legacy_nibble(const uint8_t (&qs)[16], int e) {
  return (qs[e % 16] >> (e / 16 * 4)) & 15;
}
__device__ __forceinline__ int legacy_fifth_bit(const uint8_t (&qh)[4], int e) {
  return ((qh[e / 8] >> (e % 8)) & 1) << 4;
}
// Nibble e of a Q4_K or Q5_K block: 32 low ones, then 32 high ones of the same bytes.
__device__ __forceinline__ int super_nibble(const uint8_t (&qs)[128], int e) {
  return (qs[e / 64 * 32 + e % 32] >> (e / 32 % 2 * 4)) & 15;
}

__device__ __forceinline__ int code(const BlockQ4_0& b, int e) {
  return legacy_nibble(b.qs, e) - 8;
}
__device__ __forceinline__ int code(const BlockQ4_1& b, int e) { return legacy_nibble(b.qs, e); }
__device__ __forceinline__ int code(const BlockQ5_0& b, int e) {
  return legacy_nibble(b.qs, e) + legacy_fifth_bit(b.qh, e) - 16;
}
__device__ __forceinline__ int code(const BlockQ5_1& b, int e) {
  return legacy_nibble(b.qs, e) + legacy_fifth_bit(b.qh, e);
}
__device__ __forceinline__ int code(const BlockQ8_0& b, int e) { return b.qs[e]; }
__device__ __forceinline__ int code(const BlockQ2_K& b, int e) {
  return (b.qs[e / 128 * 32 + e % 32] >> (e / 32 % 4 * 2)) & 3;
}
__device__ __forceinline__ int code(const BlockQ3_K& b, int e) {
  const int low = (b.qs[e / 128 * 32 + e % 32] >> (e / 32 % 4 * 2)) & 3;
  return low - ((b.hmask[e % 32] >> (e / 32)) & 1 ? 0 : 4);
}
__device__ __forceinline__ int code(const BlockQ4_K& b, int e) { return super_nibble(b.qs, e); }
__device__ __forceinline__ int code(const BlockQ5_K& b, int e) {
  return super_nibble(b.qs, e) + (((b.qh[e % 32] >> (e / 32)) & 1) << 4);
}
__device__ __forceinline__ int code(const BlockQ6_K& b, int e) {
  const int quarter = e / 32 % 4;
  const int low = b.ql[e / 128 * 64 + quarter % 2 * 32 + e % 32] >> (quarter / 2 * 4);
  const int high = b.qh[e / 128 * 32 + e % 32] >> (2 * quarter);
  return ((low & 15) | (high & 3) << 4) - 32;
}

// ---- Scales and mins of the group that element e is in -----------------------------------------

template <class Block>
__device__ __forceinline__ float scale(const Block& b, int) {
  return half_to_float(b.d);
}
template <class Block>
__device__ __forceinline__ float min_of(const Block&, int) {
  return 0.0f;
}
__device__ __forceinline__ float min_of(const BlockQ4_1& b, int) { return -half_to_float(b.m); }
__device__ __forceinline__ float min_of(const BlockQ5_1& b, int) { return -half_to_float(b.m); }

__device__ __forceinline__ float scale(const BlockQ2_K& b, int e) {
  return half_to_float(b.d) * static_cast<float>(b.scales[e / 16] & 15);
}
__device__ __forceinline__ float min_of(const BlockQ2_K& b, int e) {
  return half_to_float(b.dmin) * static_cast<float>(b.scales[e / 16] >> 4);
}
// The scale of group g, from -32 to 31.
__device__ __forceinline__ int signed_scale(const BlockQ3_K& b, int g) {
  const int low = (b.scales[g % 8] >> (g / 8 * 4)) & 15;
  const int high = (b.scales[8 + g % 4] >> (g / 4 * 2)) & 3;
  return (low | high << 4) - 32;
}
__device__ __forceinline__ float scale(const BlockQ3_K& b, int e) {
  return half_to_float(b.d) * static_cast<float>(signed_scale(b, e / 16));
}
__device__ __forceinline__ float scale(const BlockQ6_K& b, int e) {
  return half_to_float(b.d) * static_cast<float>(b.scales[e / 16]);
}

// The 6-bit scale of group s of a Q4_K or Q5_K block, and the 6-bit min.
__device__ __forceinline__ int sixth_scale(const uint8_t (&packed)[12], int s) {
  return s < 4 ? packed[s] & 63 : (packed[s + 4] & 15) | (packed[s - 4] >> 6) << 4;
}
__device__ __forceinline__ int sixth_min(const uint8_t (&packed)[12], int s) {
  return s < 4 ? packed[s + 4] & 63 : packed[s + 4] >> 4 | (packed[s] >> 6) << 4;
}
#define LLAMA_RT_SIXTHS(Block)                                                      \
  __device__ __forceinline__ float scale(const Block& b, int e) {                   \
    return half_to_float(b.d) * static_cast<float>(sixth_scale(b.scales, e / 32));  \
  }                                                                                 \
  __device__ __forceinline__ float min_of(const Block& b, int e) {                  \
    return half_to_float(b.dmin) * static_cast<float>(sixth_min(b.scales, e / 32)); \
  }
LLAMA_RT_SIXTHS(BlockQ4_K)
LLAMA_RT_SIXTHS(BlockQ5_K)
#undef LLAMA_RT_SIXTHS

__device__ __forceinline__ int code(const BlockQ8_1& b, int e) { return b.qs[e]; }
__device__ __forceinline__ int code(const BlockQ8_K& b, int e) { return b.qs[e]; }
__device__ __forceinline__ float scale(const BlockQ8_K& b, int) { return b.d; }

// ---- Elements ----------------------------------------------------------------------------------

template <class Block>
__device__ __forceinline__ float element(const Block& b, int e) {
  return __fsub_rn(__fmul_rn(scale(b, e), static_cast<float>(code(b, e))), min_of(b, e));
}
__device__ __forceinline__ float element(const BlockF32& b, int) { return b.value; }
__device__ __forceinline__ float element(const BlockF16& b, int) { return half_to_float(b.bits); }
__device__ __forceinline__ float element(const BlockBF16& b, int) {
  return __uint_as_float(static_cast<uint32_t>(b.bits) << 16);
}

#define LLAMA_RT_CODEBOOK __device__ const
#define LLAMA_RT_DECODER __device__ __forceinline__
#include "core/codebook_blocks.inl"
#undef LLAMA_RT_DECODER
#undef LLAMA_RT_CODEBOOK

#define LLAMA_RT_ELEMENT(Block, elements)                             \
  __device__ __forceinline__ float element(const Block& b, int e) {   \
    return __fmul_rn(codebook_scale(b, e / 8), codebook_level(b, e)); \
  }
LLAMA_RT_CODEBOOK_BLOCKS(LLAMA_RT_ELEMENT)
#undef LLAMA_RT_ELEMENT

// Element k of a stored row.
template <DType kType>
__device__ __forceinline__ float row_element(const std::byte* row, int64_t k) {
  using Format = Stored<kType>;
  const auto* blocks = reinterpret_cast<const typename Format::Block*>(row);
  return element(blocks[k / Format::kElements], static_cast<int>(k % Format::kElements));
}

}  // namespace llama_rt::cuda
