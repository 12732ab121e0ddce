// What the attention kernels share: which positions a row sees, and how parts of a softmax are put
// together. The cache is split at fixed positions; a warp makes an unnormalised softmax of split, a
// block merges the splits of its warps in order, and the block that finishes last merges the blocks
// in order. So the bits depend on where the splits are and on nothing else.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/device/warp.cuh"
#include "cuda/kernel_table.h"
#include "cuda/kernels/kv.cuh"

namespace llama_rt::cuda {

inline constexpr int kAttentionWarps = 4;

// Rows of a sequence up to which the cache is split among warps, which read it once for every
// sixteen query vectors.
inline constexpr int64_t kFewRows = 8;

void store_kv(const StoreKvTask& task, cudaStream_t stream);
void attention(const AttentionTask& task, cudaStream_t stream);
// Segments of at most `few_rows` rows; of an f32 cache all.
void attention_split(const AttentionTask& task, int64_t few_rows, cudaStream_t stream);
void attention_plain(const AttentionTask& task, cudaStream_t stream);  // f32
// Segments of more than `few_rows` rows; not of an f32 cache.
void attention_tiles(const AttentionTask& task, int64_t few_rows, cudaStream_t stream);

// Warps of a block that splits the cache, a split each: fewer where four rings of copies would be
// more than the shared memory of every device.
__host__ __device__ constexpr int split_warps(KvType type, int width) {
  const bool half = type == KvType::kF16 || type == KvType::kBF16;
  return half && width > 192 ? kAttentionWarps / 2 : kAttentionWarps;
}

// Positions of one split. A block takes split_warps splits.
int64_t attention_cut(const AttentionTask& task);
inline int64_t attention_parts(const AttentionTask& task) {
  const int width = kv_width(task.cache.type, task.cache.e);
  const int64_t block = attention_cut(task) * split_warps(task.cache.type, width);
  return (task.max_context + block - 1) / block;
}

// Rows of a sequence that keep partial results in the scratch memory, if fewer than all: then row i
// of segment s has slot s * slot_rows + i. 0: a row's slot is its place in the batch.
inline int64_t slot_rows(const AttentionTask& task) {
  const int64_t few = std::min(task.max_rows, kFewRows);
  const bool all = task.reproducible || task.cache.type == KvType::kF32;
  return !all && task.cache.segments * few < task.cache.n ? few : 0;
}

// Positions [begin, end) that a row sees.
struct Visible {
  int begin;
  int end;
};
__device__ __forceinline__ Visible visible(const AttentionTask& t, int row) {
  if (t.length > 0) return {0, static_cast<int>(t.length)};
  const int end = t.cache.positions[row] + 1;
  return {t.window > 0 ? max(0, end - static_cast<int>(t.window)) : 0, end};
}

// A warp's share of the softmax in shared memory: of `vectors` queries the largest score (in units
// of log2), the sum and the weighted values [vectors, width].
struct Softmax {
  float* largest;
  float* sum;
  float* values;
  __device__ Softmax(float* memory, int vectors)
      : largest(memory), sum(memory + vectors), values(memory + 2 * vectors) {}
};
__host__ __device__ constexpr int softmax_floats(int vectors, int width) {
  return vectors * (2 + width);
}

// Folds the next state into the running one of a vector; `scale` and `add` multiply their values.
__device__ __forceinline__ void merge(float& largest, float& sum, float next_largest,
                                      float next_sum, float& scale, float& add) {
  scale = 1.0f, add = 0.0f;
  if (next_largest == -INFINITY) return;
  if (largest == -INFINITY) {
    largest = next_largest, sum = next_sum;
    scale = 0.0f, add = 1.0f;
    return;
  }
  const float top = fmaxf(largest, next_largest);
  scale = exp2f(largest - top), add = exp2f(next_largest - top);
  sum = sum * scale + next_sum * add;
  largest = top;
}

// The query vectors of a block: vector v is head `head` + v % group of row `row` + v / group.
// `slot` is the first row's place in the scratch memory.
struct Vectors {
  int row;
  int slot;
  int head;
  int group;
  int count;
};

// Which part of how many this block is, of those that work on the same vectors.
struct Part {
  int index;
  int count;
  uint32_t* counter;
};

// One vector's place in the scratch memory: [slots, heads, parts] of largest, sum, values [width].
__device__ __forceinline__ float* partial(const AttentionTask& t, const Vectors& q, int v, int part,
                                          int parts, int width) {
  const int64_t slot = q.slot + v / q.group, head = q.head + v % q.group;
  return reinterpret_cast<float*>(t.scratch) +
         ((slot * t.heads + head) * parts + part) * (2 + width);
}

__device__ __forceinline__ void write_result(const AttentionTask& t, const Vectors& q, int v, int f,
                                             float value) {
  if (f >= t.cache.e) return;
  const int64_t row = q.row + v / q.group, head = q.head + v % q.group;
  t.out[(row * t.heads + head) * t.cache.e + f] = value;
}

// Folds what the warps left in `shared` ([kWarps] states of kVectors), then either writes the
// result or leaves it for the last part to merge. `max_parts` is the scratch memory's.
template <int kWarps, int kVectors>
__device__ void finish(const AttentionTask& t, float* shared, int stride, const Vectors& q,
                       const Part& part, int max_parts, int width) {
  __syncthreads();
  constexpr int threads = kWarps * kWarp;
  for (int i = static_cast<int>(threadIdx.x); i < q.count * width; i += threads) {
    const int v = i / width, f = i % width;
    float largest = -INFINITY, sum = 0, value = 0;
    for (int w = 0; w < kWarps; ++w) {
      const Softmax s(shared + w * stride, kVectors);
      float scale, add;
      merge(largest, sum, s.largest[v], s.sum[v], scale, add);
      value = value * scale + (add > 0 ? s.values[v * width + f] * add : 0.0f);
    }
    if (part.count == 1) {
      write_result(t, q, v, f, value / sum);
    } else {
      float* to = partial(t, q, v, part.index, max_parts, width);
      if (f == 0) to[0] = largest, to[1] = sum;
      to[2 + f] = value;
    }
  }
  if (part.count == 1) return;
  __threadfence();
  __syncthreads();
  auto* last = reinterpret_cast<int*>(shared);
  if (threadIdx.x == 0) {
    const unsigned before = atomicAdd(part.counter, 1u);
    *last = before + 1 == static_cast<unsigned>(part.count);
    if (*last) *part.counter = 0;
  }
  __syncthreads();
  if (!*last) return;
  __threadfence();
  for (int i = static_cast<int>(threadIdx.x); i < q.count * width; i += threads) {
    const int v = i / width, f = i % width;
    float largest = -INFINITY, sum = 0, value = 0;
    for (int p = 0; p < part.count; ++p) {
      const float* from = partial(t, q, v, p, max_parts, width);
      float scale, add;
      merge(largest, sum, __ldcg(from), __ldcg(from + 1), scale, add);
      value = value * scale + (add > 0 ? __ldcg(from + 2 + f) * add : 0.0f);
    }
    write_result(t, q, v, f, value / sum);
  }
}

}  // namespace llama_rt::cuda
