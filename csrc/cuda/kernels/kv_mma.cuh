// Keys and values in shared memory as operands of mma.m16n8k16: scores of 16 queries against runs
// of 16 positions, and their weighted sums of values. Accumulators and probabilities keep the
// fragment layout: a lane has rows lane / 4 and lane / 4 + 8, columns 2 * (lane % 4) and the next
// of eight.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/device/ptx.cuh"
#include "cuda/device/warp.cuh"
#include "cuda/kernels/kv.cuh"

namespace llama_rt::cuda {

// Two floats to the type that products with a cache of kType take: halves for 8-bit codes.
template <KvType kType>
__device__ __forceinline__ uint32_t pack_pair(float low, float high) {
  return kType == KvType::kBF16 ? pack_bf16(low, high) : pack_f16(low, high);
}
template <KvType kType>
__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1) {
  if constexpr (kType == KvType::kBF16) {
    mma_bf16(d, a, b0, b1);
  } else {
    mma_f16(d, a, b0, b1);
  }
}

// Four signed codes to two pairs of halves: 0x6400 + u is 1024 + u as a half.
__device__ __forceinline__ void expand_codes(uint32_t codes, uint32_t& b0, uint32_t& b1) {
  const uint32_t u = codes ^ 0x80808080u, base = 0x64646464u, zero = 0x64806480u;
  const auto difference = [&](uint32_t pair) {
    const __half2 d =
        __hsub2(*reinterpret_cast<const __half2*>(&pair), *reinterpret_cast<const __half2*>(&zero));
    return *reinterpret_cast<const uint32_t*>(&d);
  };
  b0 = difference(__byte_perm(u, base, 0x4140));
  b1 = difference(__byte_perm(u, base, 0x4342));
}

// Values of 8-bit probabilities times scales are kept away from the halves' subnormal range.
inline constexpr float kProbabilityScale = 256.0f;

// One run of 16 positions in shared memory: where its pieces begin.
struct Run {
  uint32_t keys;
  uint32_t values;
  const float* key_scales;    // [width/32][16], 8-bit type only
  const float* value_scales;  // likewise
};

// s[i] = q . keys of positions 8 i .. 8 i + 7 of the run, i < 2; q [width/16] fragments.
template <KvType kType, int kWidth>
__device__ __forceinline__ void scores(float (*s)[4], const uint32_t (&q)[kWidth / 16][4],
                                       const Run& run) {
  const int lane = lane_index();
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) s[i][j] = 0.0f;
  }
  if constexpr (kType == KvType::kQ8) {
#pragma unroll
    for (int quad = 0; quad < kWidth / 32; ++quad) {  // four cores: 8 positions x 16 features each
      uint32_t codes[4];
      ldmatrix_x4(codes, run.keys + static_cast<uint32_t>(quad * 512 + lane * 16));
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {  // two cores make a group of 32 features
        const int core = quad * 4 + pair * 2, i = core / (kWidth / 16),
                  group = core % (kWidth / 16) / 2;
        float part[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          uint32_t b0, b1;
          expand_codes(codes[pair * 2 + half], b0, b1);
          multiply<kType>(part, q[group * 2 + half], b0, b1);
        }
        const float2 scale =
            *reinterpret_cast<const float2*>(run.key_scales + group * kRun + i * 8 + lane % 4 * 2);
#pragma unroll
        for (int j = 0; j < 4; ++j) s[i][j] += part[j] * (j % 2 ? scale.y : scale.x);
      }
    }
  } else {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < kWidth / 32; ++j) {
        uint32_t b[4];
        ldmatrix_x4(b,
                    run.keys + static_cast<uint32_t>((i * (kWidth / 8) + j * 4) * 128 + lane * 16));
        multiply<kType>(s[i], q[2 * j], b[0], b[1]);
        multiply<kType>(s[i], q[2 * j + 1], b[2], b[3]);
      }
    }
  }
}

// o += p values: p [2][4] probabilities of the run, o [width/8] fragments. `written`: positions of
// the run that hold anything; the rest may be any bits.
template <KvType kType, int kWidth>
__device__ __forceinline__ void add_values(float (&o)[kWidth / 8][4], const float (*p)[4],
                                           const Run& run, int written) {
  const int lane = lane_index();
  if constexpr (kType == KvType::kQ8) {
#pragma unroll
    for (int group = 0; group < kWidth / 32; ++group) {
      const float* scales = run.value_scales + group * kRun + lane % 4 * 2;
      float2 low = *reinterpret_cast<const float2*>(scales);
      float2 high = *reinterpret_cast<const float2*>(scales + 8);
      const int t = lane % 4 * 2;
      if (written < kRun) {
        low.x = t < written ? low.x : 0.0f, low.y = t + 1 < written ? low.y : 0.0f;
        high.x = t + 8 < written ? high.x : 0.0f, high.y = t + 9 < written ? high.y : 0.0f;
      }
      low.x *= kProbabilityScale, low.y *= kProbabilityScale;
      high.x *= kProbabilityScale, high.y *= kProbabilityScale;
      const uint32_t a[4] = {pack_f16(p[0][0] * low.x, p[0][1] * low.y),
                             pack_f16(p[0][2] * low.x, p[0][3] * low.y),
                             pack_f16(p[1][0] * high.x, p[1][1] * high.y),
                             pack_f16(p[1][2] * high.x, p[1][3] * high.y)};
      uint32_t codes[4];
      ldmatrix_x4(codes, run.values + static_cast<uint32_t>(group * 512 + lane * 16));
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        uint32_t b0, b1;
        expand_codes(codes[j], b0, b1);
        multiply<kType>(o[group * 4 + j], a, b0, b1);
      }
    }
  } else {
    const uint32_t a[4] = {pack_pair<kType>(p[0][0], p[0][1]), pack_pair<kType>(p[0][2], p[0][3]),
                           pack_pair<kType>(p[1][0], p[1][1]), pack_pair<kType>(p[1][2], p[1][3])};
    const auto keep = [&](int first) {  // of the positions `first` and the next
      return (first < written ? 0x0000ffffu : 0u) | (first + 1 < written ? 0xffff0000u : 0u);
    };
    const uint32_t keep_low = keep(lane % 4 * 2), keep_high = keep(lane % 4 * 2 + 8);
#pragma unroll
    for (int j = 0; j < kWidth / 16; ++j) {
      uint32_t b[4];
      ldmatrix_x4(b, run.values + static_cast<uint32_t>(j * 512 + lane * 16));
      multiply<kType>(o[2 * j], a, b[0] & keep_low, b[1] & keep_high);
      multiply<kType>(o[2 * j + 1], a, b[2] & keep_low, b[3] & keep_high);
    }
  }
}

// Fragments of 16 query vectors: `row(v)` is the address of vector v's e floats, or null.
template <KvType kType, int kWidth, class Row>
__device__ __forceinline__ void load_queries(uint32_t (&q)[kWidth / 16][4], int e, float scale,
                                             Row row) {
  const int lane = lane_index();
  const float* rows[2] = {row(lane / 4), row(lane / 4 + 8)};
#pragma unroll
  for (int k = 0; k < kWidth / 16; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float* x = rows[i % 2];
      const int f = k * 16 + i / 2 * 8 + lane % 4 * 2;
      const float low = x && f < e ? x[f] * scale : 0.0f;
      const float high = x && f + 1 < e ? x[f + 1] * scale : 0.0f;
      q[k][i] = pack_pair<kType>(low, high);
    }
  }
}

// Largest score (in units of log2) and sum of the rows lane / 4 and lane / 4 + 8 of a fragment.
struct RowSoftmax {
  float largest[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0.0f, 0.0f};  // of this lane's columns

  // Takes scores [kTiles][4] of the positions 8 i .. of a block and leaves probabilities in them;
  // what was summed before is to be multiplied by `scale`.
  template <int kTiles>
  __device__ __forceinline__ void take(float* s, float (&scale)[2]) {
    constexpr float kLog2E = 1.44269504f;
    float top[2] = {-INFINITY, -INFINITY}, base[2];
#pragma unroll
    for (int i = 0; i < 4 * kTiles; ++i) top[i % 4 / 2] = fmaxf(top[i % 4 / 2], s[i]);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      top[r] = fmaxf(top[r], __shfl_xor_sync(kAllLanes, top[r], 1));
      top[r] = fmaxf(top[r], __shfl_xor_sync(kAllLanes, top[r], 2));
      top[r] = fmaxf(top[r] * kLog2E, largest[r]);
      base[r] = top[r] == -INFINITY ? 0.0f : top[r];  // nothing seen yet
      scale[r] = exp2_fast(largest[r] - base[r]);
      largest[r] = top[r];
      sum[r] *= scale[r];
    }
#pragma unroll
    for (int i = 0; i < 4 * kTiles; ++i) {
      s[i] = exp2_fast(fmaf(s[i], kLog2E, -base[i % 4 / 2]));
      sum[i % 4 / 2] += s[i];
    }
  }

  // The sums over all columns, in every lane of a row.
  __device__ __forceinline__ void finish_sums() {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum[r] += __shfl_xor_sync(kAllLanes, sum[r], 1);
      sum[r] += __shfl_xor_sync(kAllLanes, sum[r], 2);
    }
  }
};

// The same with the weighted values of 16 vectors.
template <int kWidth>
struct RunningSoftmax : RowSoftmax {
  float values[kWidth / 8][4] = {};

  template <int kTiles>
  __device__ __forceinline__ void take(float (&s)[kTiles][4]) {
    float scale[2];
    RowSoftmax::take<kTiles>(&s[0][0], scale);
    if (scale[0] != 1.0f || scale[1] != 1.0f) {
#pragma unroll
      for (int i = 0; i < kWidth / 8; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) values[i][j] *= scale[j / 2];
      }
    }
  }
};

}  // namespace llama_rt::cuda
