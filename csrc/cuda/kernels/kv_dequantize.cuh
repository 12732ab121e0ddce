// A page of 8-bit keys and values as halves in shared memory, in the layout of a cache of halves
// (kv.cuh), for wgmma, which cannot scale on the way. The layouts agree so far that sixteen codes,
// a row of core c, become that row of cores 2 c and 2 c + 1. Scales are rounded to halves, and so
// is each product.
#pragma once

#include "cuda/kernels/kv_mma.cuh"

namespace llama_rt::cuda {

// Expanded values are so many times theirs: small ones stay above the halves' subnormal range, and
// there is room for 4000.
inline constexpr float kValueScale = 16.0f;

// Sixteen codes times their scales, halves in the codes' order: scales 2 w and 2 w + 1 are for the
// two pairs of word w.
__device__ __forceinline__ void expand_row(std::byte* to, const std::byte* from,
                                           const uint32_t (&scales)[8]) {
  const uint4 codes = *reinterpret_cast<const uint4*>(from);
  const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
  uint32_t rows[2][4];
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    uint32_t pair[2];
    expand_codes(words[w], pair[0], pair[1]);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const __half2 product = __hmul2(*reinterpret_cast<const __half2*>(&pair[i]),
                                      *reinterpret_cast<const __half2*>(&scales[2 * w + i]));
      rows[i][w] = *reinterpret_cast<const uint32_t*>(&product);
    }
  }
  auto* cores = reinterpret_cast<uint4*>(to);
  cores[0] = make_uint4(rows[0][0], rows[0][1], rows[0][2], rows[0][3]);
  cores[8] = make_uint4(rows[1][0], rows[1][1], rows[1][2], rows[1][3]);
}

// How kThreads threads divide a page: each expands every kThreads-th row of sixteen codes.
template <int kWidth, int kThreads>
struct Expansion {
  static constexpr int kRows = static_cast<int>(kPageTokens) * kWidth / (16 * kThreads);
  // From one of a thread's rows to the next: bytes of codes and of halves, scales, positions.
  static constexpr int kFrom = 16 * kThreads, kTo = 32 * kThreads;
  static constexpr int kScales = 16 * kThreads / kScaleGroup;
  static constexpr int kPositions = 16 * kThreads / kWidth;
  static_assert(kPositions % kRun == 0 && kThreads % 8 == 0);
};

// Keys of `page` (one head's share) to `to`.
template <int kWidth, int kThreads>
__device__ __forceinline__ void expand_keys(std::byte* to, const std::byte* page, int thread) {
  using E = Expansion<kWidth, kThreads>;
  const int core = thread / 8, p = core / (kWidth / 16) * 8 + thread % 8;
  const int group = core % (kWidth / 16) / 2;
  const auto* scales = reinterpret_cast<const float*>(page + key_scales_at<KvType::kQ8>(kWidth)) +
                       (p / kRun * (kWidth / kScaleGroup) + group) * kRun + p % kRun;
  page += thread * 16, to += core * 256 + thread % 8 * 16;
#pragma unroll
  for (int i = 0; i < E::kRows; ++i) {
    const float scale = scales[i * E::kScales];
    const uint32_t s = pack_f16(scale, scale);
    expand_row(to + i * E::kTo, page + i * E::kFrom, {s, s, s, s, s, s, s, s});
  }
}

// Values likewise; those of positions from `written` on may be any bits, and become zeros.
template <int kWidth, int kThreads>
__device__ __forceinline__ void expand_values(std::byte* to, const std::byte* page, int thread,
                                              int written) {
  using E = Expansion<kWidth, kThreads>;
  const int core = thread / 8, run = core / (kWidth / 8), group = core % (kWidth / 8) / 4;
  const auto* scales =
      reinterpret_cast<const float4*>(page + value_scales_at<KvType::kQ8>(kWidth)) +
      (run * (kWidth / kScaleGroup) + group) * (kRun / 4);
  page += values_at<KvType::kQ8>(kWidth) + thread * 16;
  to += core * 256 + thread % 8 * 16;
  written -= run * kRun;
#pragma unroll
  for (int i = 0; i < E::kRows; ++i, written -= E::kPositions) {
    uint32_t s[8];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float4 four = scales[i * E::kScales / 4 + j];
      const int at = j % 2 * 4 + j / 2;  // of positions 4 j and 4 j + 1 of the run
      s[at] = pack_f16(four.x * kValueScale, four.y * kValueScale);
      s[at + 2] = pack_f16(four.z * kValueScale, four.w * kValueScale);
    }
    if (written < kRun) {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const int p = j / 2 * 2 + j % 2 * 8;
        s[j] &= (p < written ? 0x0000ffffu : 0u) | (p + 1 < written ? 0xffff0000u : 0u);
      }
    }
    expand_row(to + i * E::kTo, page + i * E::kFrom, s);
  }
}

}  // namespace llama_rt::cuda
