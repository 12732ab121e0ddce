// Attention of many rows of a sequence: 64 query vectors (rows and the heads that share a KV head)
// against pages (of the largest, half a page), which four warps load_async into shared memory and
// each reads for its sixteen.
#include "cuda/kernels/attention.cuh"
#include "cuda/kernels/kv_mma.cuh"
#include "cuda/launch.h"

namespace llama_rt::cuda {
namespace {

constexpr int kVectors = 16 * kAttentionWarps;
constexpr int kThreads = kAttentionWarps * kWarp;
constexpr int kPage = static_cast<int>(kPageTokens);

// Runs whose scores are held at a time: what registers allow.
template <int kWidth>
inline constexpr int kRuns = kWidth > 128 ? 1 : 4;

__device__ __forceinline__ void copy(std::byte* to, const std::byte* from, int bytes) {
  const uint32_t address = shared_address(to);
  for (int i = static_cast<int>(threadIdx.x) * 16; i < bytes; i += kThreads * 16) {
    copy_async(address + static_cast<uint32_t>(i), from + i);
  }
}

// What is brought at a time: a page, or such a part of it that two fit every device.
template <KvType kType, int kWidth>
struct Step {
  static constexpr int kShare = static_cast<int>(head_share<kType>(kWidth));
  static constexpr int kParts = 2 * kShare > static_cast<int>(kLeastShared) ? 2 : 1;
  static constexpr int kPositions = kPage / kParts;
  static constexpr int kBytes = kShare / kParts;
  static constexpr int kValues = static_cast<int>(values_at<kType>(kWidth)) / kParts;
  static_assert(kParts == 1 || kBytes == 2 * kValues, "scales would be a piece of their own");

  static __device__ __forceinline__ void load_async(std::byte* to, const std::byte* share,
                                                    int part) {
    if constexpr (kParts == 1) {
      copy(to, share, kBytes);
    } else {
      copy(to, share + part * kValues, kValues);
      copy(to + kValues, share + (kParts + part) * kValues, kValues);
    }
  }
};

// Run `i` of a step in shared memory.
template <KvType kType, int kWidth>
__device__ __forceinline__ Run run_of(const std::byte* step, int i) {
  constexpr int kCodes = kRun * kWidth * kKvBytes<kType>, kScales = scale_bytes<kType>(kWidth);
  const uint32_t address = shared_address(step);
  const auto scales = [&](int64_t at) {
    return reinterpret_cast<const float*>(step + at + i * kScales);
  };
  return {address + static_cast<uint32_t>(i * kCodes),
          address + static_cast<uint32_t>(Step<kType, kWidth>::kValues + i * kCodes),
          scales(key_scales_at<kType>(kWidth)), scales(value_scales_at<kType>(kWidth))};
}

// What this lane's two vectors see, and what all vectors of its warp do: no position outside
// [oldest, end) is seen by any, all of [inner_begin, inner_end) by every one.
struct WarpRows {
  Visible see[2];
  int oldest, end, inner_begin, inner_end;
};

// Runs [first, first + kRuns) of a step that begins at `position`.
template <KvType kType, int kWidth>
__device__ __forceinline__ void attend_runs(RunningSoftmax<kWidth>& softmax,
                                            const uint32_t (&q)[kWidth / 16][4],
                                            const std::byte* step, int first, int position,
                                            const WarpRows& rows, int written) {
  constexpr int kCount = kRuns<kWidth>;
  position += first * kRun;
  if (position >= rows.end || position + kCount * kRun <= rows.oldest) return;
  float s[2 * kCount][4];
#pragma unroll
  for (int r = 0; r < kCount; ++r) {
    scores<kType, kWidth>(s + 2 * r, q, run_of<kType, kWidth>(step, first + r));
  }
  if (position < rows.inner_begin || position + kCount * kRun > rows.inner_end) {
#pragma unroll
    for (int i = 0; i < 2 * kCount; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int p = position + i * 8 + lane_index() % 4 * 2 + j % 2;
        if (p < rows.see[j / 2].begin || p >= rows.see[j / 2].end) s[i][j] = -INFINITY;
      }
    }
  }
  softmax.template take<2 * kCount>(s);
  const bool whole = position + kCount * kRun <= written;
#pragma unroll
  for (int r = 0; r < kCount; ++r) {
    const Run run = run_of<kType, kWidth>(step, first + r);
    if (whole) {
      add_values<kType, kWidth>(softmax.values, s + 2 * r, run, kRun);
    } else {
      add_values<kType, kWidth>(softmax.values, s + 2 * r, run, written - position - r * kRun);
    }
  }
}

template <KvType kType, int kWidth>
__device__ __forceinline__ void write_tile(const AttentionTask& t, RunningSoftmax<kWidth>& softmax,
                                           int first, int count, int row0, int head0, int group) {
  softmax.finish_sums();
  const int lane = lane_index();
  constexpr float kUnscale = kType == KvType::kQ8 ? 1.0f / kProbabilityScale : 1.0f;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int v = first + lane / 4 + r * 8;
    if (v >= count) continue;
    float* out = t.out + (int64_t{row0 + v / group} * t.heads + head0 + v % group) * t.cache.e;
    const float inverse = kUnscale / softmax.sum[r];
#pragma unroll
    for (int j = 0; j < kWidth / 8; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int f = j * 8 + lane % 4 * 2 + i;
        if (f < t.cache.e) out[f] = softmax.values[j][2 * r + i] * inverse;
      }
    }
  }
}

template <KvType kType, int kWidth>
__global__ __launch_bounds__(kThreads) void tiles(AttentionTask t, int few_rows) {
  wait_for_previous();
  let_next_start();
  const CacheTask& c = t.cache;
  const int g = static_cast<int>(blockIdx.x), segment = static_cast<int>(blockIdx.y);
  const int row0 = c.first_row[segment], rows = c.first_row[segment + 1] - row0;
  // The last tiles see most: they begin first.
  const int tile = static_cast<int>(gridDim.z - 1 - blockIdx.z);
  const int group = static_cast<int>(t.heads / c.kv_heads), count = rows * group;
  const int first = tile * kVectors;
  if (rows <= few_rows || first >= count) return;
  const int last = min(first + kVectors, count) - 1;
  const int oldest = visible(t, row0 + first / group).begin;
  const int end = visible(t, row0 + last / group).end;

  const int own = first + warp_index() * 16;
  WarpRows see{};
  if (own < count) {
    const Visible begin = visible(t, row0 + own / group);
    const Visible newest = visible(t, row0 + min(own + 15, count - 1) / group);
    see.oldest = begin.begin, see.end = newest.end;
    see.inner_begin = newest.begin, see.inner_end = begin.end;
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int v = own + lane_index() / 4 + r * 8;
    see.see[r] = v < count ? visible(t, row0 + v / group) : Visible{0, 0};
  }
  uint32_t q[kWidth / 16][4];
  load_queries<kType, kWidth>(q, static_cast<int>(c.e), t.scale, [&](int i) -> const float* {
    const int v = own + i;
    if (v >= count) return nullptr;
    return t.q + (int64_t{row0 + v / group} * t.heads + g * group + v % group) * c.e;
  });

  using S = Step<kType, kWidth>;
  std::byte* stages = dynamic_shared();
  const int32_t* pages = c.pages + segment * c.page_stride;
  const auto load_async = [&](int step) {
    if (step * S::kPositions < end) {
      S::load_async(stages + step % 2 * S::kBytes,
                    c.base + pages[step / S::kParts] * c.page_bytes + int64_t{g} * S::kShare,
                    step % S::kParts);
    }
    copy_async_commit();
  };
  RunningSoftmax<kWidth> softmax;
  load_async(oldest / S::kPositions);
  for (int step = oldest / S::kPositions; step * S::kPositions < end; ++step) {
    load_async(step + 1);
    copy_async_wait<1>();
    __syncthreads();
    for (int i = 0; i < S::kPositions / kRun; i += kRuns<kWidth>) {
      attend_runs<kType, kWidth>(softmax, q, stages + step % 2 * S::kBytes, i, step * S::kPositions,
                                 see, end);
    }
    __syncthreads();
  }
  copy_async_wait<0>();
  write_tile<kType, kWidth>(t, softmax, own, count, row0, g * group, group);
}

template <KvType kType, int kWidth>
void launch_tiles(const AttentionTask& t, int64_t few_rows, cudaStream_t stream) {
  const int64_t group = t.heads / t.cache.kv_heads;
  const dim3 grid(static_cast<unsigned>(t.cache.kv_heads), static_cast<unsigned>(t.cache.segments),
                  blocks_for(t.max_rows * group, kVectors));
  launch({stream, grid, dim3(kThreads), static_cast<size_t>(2 * Step<kType, kWidth>::kBytes)},
         tiles<kType, kWidth>, t, static_cast<int>(few_rows));
}

template <KvType kType>
void launch_type(const AttentionTask& t, int64_t few_rows, cudaStream_t stream) {
  switch (kv_width(kType, t.cache.e)) {
    case 32:
      return launch_tiles<kType, 32>(t, few_rows, stream);
    case 64:
      return launch_tiles<kType, 64>(t, few_rows, stream);
    case 96:
      return launch_tiles<kType, 96>(t, few_rows, stream);
    case 128:
      return launch_tiles<kType, 128>(t, few_rows, stream);
    case 192:
      return launch_tiles<kType, 192>(t, few_rows, stream);
    default:
      return launch_tiles<kType, 256>(t, few_rows, stream);
  }
}

}  // namespace

void attention_tiles(const AttentionTask& t, int64_t few_rows, cudaStream_t stream) {
  switch (t.cache.type) {
    case KvType::kF16:
      return launch_type<KvType::kF16>(t, few_rows, stream);
    case KvType::kBF16:
      return launch_type<KvType::kBF16>(t, few_rows, stream);
    case KvType::kQ8:
      return launch_type<KvType::kQ8>(t, few_rows, stream);
    case KvType::kF32:
      return;
  }
}

}  // namespace llama_rt::cuda
