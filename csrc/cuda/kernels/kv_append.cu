// Appends keys and values to the cache, rotating keys and queries on the way if asked.
// One warp for one head of one row.
#include "cuda/device/ptx.cuh"
#include "cuda/device/warp.cuh"
#include "cuda/kernels/attention.cuh"
#include "cuda/kernels/kv.cuh"
#include "cuda/launch.h"

namespace llama_rt::cuda {
namespace {

constexpr int kWarps = 4;

// Feature `f` of a head after rotation; `x` [e], cos and sin [e/2] or null.
__device__ float rotated(const float* x, const float* cos, const float* sin, RopeStyle style, int e,
                         int f) {
  if (!cos) return x[f];
  const bool halves = style == RopeStyle::kHalves;
  const int half = e / 2;
  const int i = halves ? f % half : f / 2;
  const bool second = halves ? f >= half : f % 2 == 1;
  const int first = halves ? i : 2 * i;
  const float2 pair = rotate_pair(x[first], x[first + (halves ? half : 1)], cos[i], sin[i]);
  return second ? pair.y : pair.x;
}

__device__ void rotate_in_place(float* x, const float* cos, const float* sin, RopeStyle style,
                                int e) {
  const bool halves = style == RopeStyle::kHalves;
  for (int i = lane_index(); i < e / 2; i += kWarp) {
    float& first = x[halves ? i : 2 * i];
    float& second = x[halves ? i + e / 2 : 2 * i + 1];
    const float2 pair = rotate_pair(first, second, cos[i], sin[i]);
    first = pair.x, second = pair.y;
  }
}

// The scale of 32 features, one in each lane, and each one's code.
__device__ float encode(float x, int8_t& code) {
  const float scale = warp_max(fabsf(x)) / 127.0f;
  const float q = x * (scale > 0 ? 1.0f / scale : 0.0f);
  code = static_cast<int8_t>(fminf(fmaxf(truncf(q + copysignf(0.5f, q)), -127.0f), 127.0f));
  return scale;
}

// Eight positions from a multiple of eight lie together in a core of values, so where a batch has
// all of them the warp of the first stores them at once, 16 bytes for a feature.
constexpr int kTogether = 8;

template <KvType kType>
__device__ void store_together(const float* v, int64_t row_stride, int e, int width, int p,
                               std::byte* values) {
  for (int f = lane_index(); f < width; f += kWarp) {
    uint32_t pairs[kTogether / 2];
#pragma unroll
    for (int i = 0; i < kTogether; i += 2) {
      const float low = f < e ? v[i * row_stride + f] : 0.0f;
      const float high = f < e ? v[(i + 1) * row_stride + f] : 0.0f;
      pairs[i / 2] = kType == KvType::kF16 ? pack_f16(low, high) : pack_bf16(low, high);
    }
    *reinterpret_cast<uint4*>(values + value_at<kType>(width, p, f)) =
        make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
  }
}

template <KvType kType>
__device__ void store_head(const StoreKvTask& t, int row, int g) {
  const CacheTask& c = t.cache;
  const int e = static_cast<int>(c.e), width = kv_width(kType, e), lane = lane_index();
  const Place place = place_of(c, row);
  const int p = place.p;
  std::byte* keys = place.page + g * head_share<kType>(width);
  std::byte* values = keys + values_at<kType>(width);
  const int64_t from = (row * c.kv_heads + g) * c.e;
  const float* cos = t.cos ? t.cos + int64_t{row} * (e / 2) : nullptr;
  const float* sin = t.cos ? t.sin + int64_t{row} * (e / 2) : nullptr;
  bool together = false;
  if constexpr (kType == KvType::kF16 || kType == KvType::kBF16) {
    const int first = row - p % kTogether, segment = c.segment_of[row];
    together = first >= c.first_row[segment] && first + kTogether <= c.first_row[segment + 1];
    if (together && row == first) {
      store_together<kType>(t.v + from, c.kv_heads * c.e, e, width, p, values);
    }
  }
  for (int group = 0; group < width / kWarp; ++group) {
    const int f = group * kWarp + lane;
    const float k = f < e ? rotated(t.k + from, cos, sin, t.style, e, f) : 0.0f;
    const float v = f < e && !together ? t.v[from + f] : 0.0f;
    if constexpr (kType == KvType::kQ8) {
      int8_t k_code, v_code;
      const float k_scale = encode(k, k_code), v_scale = encode(v, v_code);
      *reinterpret_cast<int8_t*>(keys + key_at<kType>(width, p, f)) = k_code;
      *reinterpret_cast<int8_t*>(values + value_at<kType>(width, p, f)) = v_code;
      const int at = (p / kRun * (width / kScaleGroup) + group) * kRun + p % kRun;
      if (lane == 0) reinterpret_cast<float*>(keys + key_scales_at<kType>(width))[at] = k_scale;
      if (lane == 1) reinterpret_cast<float*>(keys + value_scales_at<kType>(width))[at] = v_scale;
    } else {
      store_element<kType>(keys + key_at<kType>(width, p, f), k);
      if (!together) store_element<kType>(values + value_at<kType>(width, p, f), v);
    }
  }
}

// Heads of the keys, then heads of the queries, which are only rotated.
template <KvType kType>
__global__ __launch_bounds__(kWarps* kWarp) void store(StoreKvTask t) {
  wait_for_previous();
  let_next_start();
  const int row = static_cast<int>(blockIdx.x);
  const int head = static_cast<int>(blockIdx.y) * kWarps + warp_index();
  const int kv_heads = static_cast<int>(t.cache.kv_heads);
  if (head < kv_heads) {
    store_head<kType>(t, row, head);
  } else if (t.q && t.cos && head < kv_heads + t.heads) {
    const int64_t e = t.cache.e;
    rotate_in_place(t.q + (row * t.heads + head - kv_heads) * e, t.cos + row * (e / 2),
                    t.sin + row * (e / 2), t.style, static_cast<int>(e));
  }
}

}  // namespace

void store_kv(const StoreKvTask& t, cudaStream_t stream) {
  const int64_t heads = t.cache.kv_heads + (t.q && t.cos ? t.heads : 0);
  const Launch how{stream, dim3(static_cast<unsigned>(t.cache.n), blocks_for(heads, kWarps)),
                   dim3(kWarps * kWarp)};
  switch (t.cache.type) {
    case KvType::kF32:
      return launch(how, store<KvType::kF32>, t);
    case KvType::kF16:
      return launch(how, store<KvType::kF16>, t);
    case KvType::kBF16:
      return launch(how, store<KvType::kBF16>, t);
    case KvType::kQ8:
      return launch(how, store<KvType::kQ8>, t);
  }
}

}  // namespace llama_rt::cuda
