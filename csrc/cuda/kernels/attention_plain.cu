// Attention over a float32 cache, in float32: one warp for one split of one head of one row, a lane
// for a position while scoring and for some features while summing.
#include "cuda/kernels/attention.cuh"
#include "cuda/kernels/kv.cuh"
#include "cuda/launch.h"

namespace llama_rt::cuda {
namespace {

constexpr float kLog2E = 1.44269504f;
constexpr int kMaxValues = kMaxWidth / kWarp;  // features of a lane

// Scores of 32 positions, one in each lane, in units of log2.
__device__ float score(const float* q, const float* keys, int slot, int e, float scale) {
  float sum = 0;
  for (int f = 0; f < e; ++f) sum += q[f] * keys[f * kPageTokens + slot];
  return sum * scale * kLog2E;
}

__global__ __launch_bounds__(kAttentionWarps* kWarp) void plain(AttentionTask t,
                                                                int split_positions,
                                                                int max_parts) {
  wait_for_previous();
  let_next_start();
  const CacheTask& c = t.cache;
  const int e = static_cast<int>(c.e), width = kv_width(KvType::kF32, e), lane = lane_index();
  const int row = static_cast<int>(blockIdx.z), head = static_cast<int>(blockIdx.y);
  const int g = head / static_cast<int>(t.heads / c.kv_heads);
  const Visible see = visible(t, row);
  const int block_split = split_positions * kAttentionWarps, block = static_cast<int>(blockIdx.x);
  const int first_block = see.begin / block_split;
  const int blocks = (see.end + block_split - 1) / block_split - first_block;
  if (block < first_block || block >= first_block + blocks) return;

  const int stride = softmax_floats(1, width);
  auto* shared = reinterpret_cast<float*>(dynamic_shared());
  float* q = shared + kAttentionWarps * stride;
  for (int f = static_cast<int>(threadIdx.x); f < e; f += kAttentionWarps * kWarp) {
    q[f] = t.q[(row * t.heads + head) * c.e + f];
  }
  __syncthreads();
  const int from = block * block_split + warp_index() * split_positions;
  const int begin = max(from, see.begin), end = min(from + split_positions, see.end);
  const int32_t* pages = c.pages + c.segment_of[row] * c.page_stride;
  float largest = -INFINITY, sum = 0, value[kMaxValues] = {};
  for (int p = begin < end ? begin / kWarp * kWarp : end; p < end; p += kWarp) {
    const std::byte* share =
        c.base + pages[p / kPageTokens] * c.page_bytes + g * head_share<KvType::kF32>(width);
    const auto* keys = reinterpret_cast<const float*>(share);
    const int slot = p % static_cast<int>(kPageTokens);
    const auto* values =
        reinterpret_cast<const float*>(share + values_at<KvType::kF32>(width)) + slot * width;
    const bool seen = p + lane >= begin && p + lane < end;
    const float s = seen ? score(q, keys, slot + lane, e, t.scale) : -INFINITY;
    const float top = fmaxf(largest, warp_max(s));
    const float scale = exp2f(largest - top), weight = seen ? exp2f(s - top) : 0.0f;
    largest = top;
    sum = sum * scale + weight;
#pragma unroll
    for (int j = 0; j < kMaxValues; ++j) value[j] *= scale;
    for (int i = 0; i < kWarp; ++i) {
      const float w = __shfl_sync(kAllLanes, weight, i);
      if (p + i < begin || p + i >= end) continue;
#pragma unroll
      for (int j = 0; j < kMaxValues; ++j) {
        if (j * kWarp < width) value[j] += w * values[i * width + j * kWarp + lane];
      }
    }
  }
  sum = warp_sum(sum);
  const Softmax state(shared + warp_index() * stride, 1);
  if (lane == 0) *state.largest = largest, *state.sum = sum;
#pragma unroll
  for (int j = 0; j < kMaxValues; ++j) {
    if (j * kWarp < width) state.values[j * kWarp + lane] = value[j];
  }
  const Part part{block - first_block, blocks, t.counters + int64_t{row} * t.heads + head};
  finish<kAttentionWarps, 1>(t, shared, stride, {row, row, head, 1, 1}, part, max_parts, width);
}

}  // namespace

void attention_plain(const AttentionTask& t, cudaStream_t stream) {
  const int width = kv_width(KvType::kF32, t.cache.e);
  const auto parts = static_cast<unsigned>(attention_parts(t));
  const size_t floats = static_cast<size_t>(kAttentionWarps * softmax_floats(1, width) + width);
  launch({stream, dim3(parts, static_cast<unsigned>(t.heads), static_cast<unsigned>(t.cache.n)),
          dim3(kAttentionWarps * kWarp), floats * sizeof(float)},
         plain, t, static_cast<int>(attention_cut(t)), static_cast<int>(parts));
}

}  // namespace llama_rt::cuda
