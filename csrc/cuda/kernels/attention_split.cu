// Attention of few rows over a long cache: sixteen query vectors (the heads that share a KV head,
// and rows beside each other) against the split of one warp, which brings its keys and values
// through its own ring of copies and meets the other warps only at the end.
#include "cuda/kernels/attention.cuh"
#include "cuda/kernels/kv_mma.cuh"
#include "cuda/launch.h"

namespace llama_rt::cuda {
namespace {

constexpr int kVectors = 16;

template <KvType kType, int kWidth>
struct Ring {
  static constexpr int kCodes = kRun * kWidth * kKvBytes<kType>;  // bytes of keys, or of values
  static constexpr int kScales = scale_bytes<kType>(kWidth);
  static constexpr int kStage = 2 * kCodes + 2 * kScales;
  // About 24 KiB on their way for each warp; room for what the warp leaves at its end.
  static constexpr int kState = softmax_floats(kVectors, kWidth) * 4;
  static constexpr int kWanted = kStage >= 12288 ? 2 : 24576 / kStage;
  static constexpr int kNeeded = (kState + kStage - 1) / kStage;
  static constexpr int kStages =
      kWanted > 6 ? (kNeeded > 6 ? kNeeded : 6) : (kNeeded > kWanted ? kNeeded : kWanted);
  static constexpr int kBytes = kStages * kStage;
  static constexpr int kWarps = split_warps(kType, kWidth);
  static_assert(size_t{kWarps} * kBytes <= kLeastShared);

  // This lane's part of bringing the run at slot `p` of a head's share of a page.
  static __device__ __forceinline__ void copy(uint32_t to, const std::byte* share, int p) {
    const int lane = lane_index(), run = p / kRun;
    const auto piece = [&](const std::byte* from, uint32_t at, int bytes) {
#pragma unroll
      for (int i = 0; i < bytes; i += kWarp * 16) {
        if (i + lane * 16 < bytes)
          copy_async(at + static_cast<uint32_t>(i + lane * 16), from + i + lane * 16);
      }
    };
    piece(share + run * kCodes, to, kCodes);
    piece(share + values_at<kType>(kWidth) + run * kCodes, to + kCodes, kCodes);
    if constexpr (kType == KvType::kQ8) {
      piece(share + key_scales_at<kType>(kWidth) + run * kScales, to + 2 * kCodes, kScales);
      piece(share + value_scales_at<kType>(kWidth) + run * kScales, to + 2 * kCodes + kScales,
            kScales);
    }
  }
  static __device__ __forceinline__ Run at(const std::byte* stage) {
    const uint32_t address = shared_address(stage);
    return {address, address + kCodes, reinterpret_cast<const float*>(stage + 2 * kCodes),
            reinterpret_cast<const float*>(stage + 2 * kCodes + kScales)};
  }
};

// Takes back the scores of positions that a lane's two vectors do not see; row -1: no vector.
__device__ __forceinline__ void hide(const AttentionTask& t, float (&s)[2][4], const int (&row)[2],
                                     int position) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const Visible see = row[r] < 0 ? Visible{0, 0} : visible(t, row[r]);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int p = position + i / 2 * 8 + lane_index() % 4 * 2 + i % 2;
      if (p < see.begin || p >= see.end) s[i / 2][2 * r + i % 2] = -INFINITY;
    }
  }
}

// The runs of one warp's split, in its ring.
template <KvType kType, int kWidth>
struct Runs {
  using R = Ring<kType, kWidth>;
  const CacheTask& cache;
  const int32_t* pages;  // of the sequence
  int g;                 // KV head
  std::byte* ring;
  int first, count;  // in units of kRun positions

  __device__ __forceinline__ int position(int i) const { return (first + i) * kRun; }
  __device__ __forceinline__ Run at(int i) const {
    return R::at(ring + i % R::kStages * R::kStage);
  }
  // Begins the copy of run i, as one group also where there is no such run.
  __device__ __forceinline__ void load_async(int i) const {
    if (i < count) {
      const std::byte* share = cache.base + pages[position(i) / kPageTokens] * cache.page_bytes +
                               g * head_share<kType>(kWidth);
      R::copy(shared_address(ring) + static_cast<uint32_t>(i % R::kStages * R::kStage), share,
              position(i) % static_cast<int>(kPageTokens));
    }
    copy_async_commit();
  }
};

// The softmax of one warp over its runs, whose positions before `end` are written.
template <KvType kType, int kWidth>
__device__ __forceinline__ void attend(const AttentionTask& t, RunningSoftmax<kWidth>& softmax,
                                       const uint32_t (&q)[kWidth / 16][4],
                                       const Runs<kType, kWidth>& runs, int end,
                                       const int (&row)[2], int all_begin, int all_end) {
  constexpr int kStages = Ring<kType, kWidth>::kStages;
  for (int i = 0; i < runs.count; ++i) {
    copy_async_wait<kStages - 2>();
    __syncwarp();
    runs.load_async(i + kStages - 1);
    const int position = runs.position(i);
    float s[2][4];
    scores<kType, kWidth>(s, q, runs.at(i));
    if (position < all_begin || position + kRun > all_end) hide(t, s, row, position);
    softmax.take(s);
    add_values<kType, kWidth>(softmax.values, s, runs.at(i), min(kRun, end - position));
  }
  copy_async_wait<0>();
  __syncwarp();
}

template <KvType kType, int kWidth>
__global__ __launch_bounds__(split_warps(kType, kWidth) * kWarp,
                             kWidth > 128 ? 1 : 2) void split(AttentionTask t, int split_positions,
                                                              int max_parts, int most_rows,
                                                              int slots) {
  using R = Ring<kType, kWidth>;
  const CacheTask& c = t.cache;
  const int row = static_cast<int>(blockIdx.z), segment = c.segment_of[row];
  const int segment_rows = c.first_row[segment + 1] - c.first_row[segment];

  // Vectors: as many rows as fill sixteen, or a part of the heads of one row.
  const int heads = static_cast<int>(t.heads / c.kv_heads);
  const int head_tiles = (heads + kVectors - 1) / kVectors;
  const int g = static_cast<int>(blockIdx.y) / head_tiles;
  const int first_head = static_cast<int>(blockIdx.y) % head_tiles * kVectors;
  const int group = min(kVectors, heads - first_head), tile_rows = max(1, kVectors / heads);
  const int rows = min(tile_rows, c.first_row[segment + 1] - row);
  const int slot = slots > 0 ? segment * slots + row - c.first_row[segment] : row;
  const Vectors vectors{row, slot, g * heads + first_head, group, rows * group};

  const Visible oldest = visible(t, row), newest = visible(t, row + rows - 1);
  const int block_split = split_positions * R::kWarps, block = static_cast<int>(blockIdx.x);
  const int first_block = oldest.begin / block_split;
  const int blocks = (newest.end + block_split - 1) / block_split - first_block;
  const bool idle = segment_rows > most_rows || (row - c.first_row[segment]) % tile_rows != 0 ||
                    block < first_block || block >= first_block + blocks;
  if (idle) return wait_for_previous();

  // The tables and all positions of earlier batches were written before the kernel ahead began:
  // their copies need not wait for it.
  const int from = block * block_split + warp_index() * split_positions;
  const int begin = max(from, oldest.begin), end = min(from + split_positions, newest.end);
  std::byte* ring = dynamic_shared() + warp_index() * R::kBytes;
  const int first = begin / kRun;
  const Runs<kType, kWidth> runs{c,     c.pages + segment * c.page_stride,
                                 g,     ring,
                                 first, begin < end ? (end + kRun - 1) / kRun - first : 0};
  const int old = t.length > 0 ? 0 : c.positions[c.first_row[segment]];
  int ahead = 0;
  while (ahead < R::kStages - 1 && runs.position(ahead + 1) <= old) runs.load_async(ahead++);
  wait_for_previous();
  let_next_start();
  while (ahead < R::kStages - 1) runs.load_async(ahead++);

  const auto address = [&](int v) -> const float* {
    if (v >= vectors.count) return nullptr;
    return t.q + ((row + v / group) * t.heads + vectors.head + v % group) * c.e;
  };
  uint32_t q[kWidth / 16][4];
  load_queries<kType, kWidth>(q, static_cast<int>(c.e), t.scale, address);
  int lane_row[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int v = lane_index() / 4 + r * 8;
    lane_row[r] = v < vectors.count ? row + v / group : -1;
  }
  RunningSoftmax<kWidth> softmax;
  attend<kType, kWidth>(t, softmax, q, runs, end, lane_row, newest.begin, visible(t, row).end);
  softmax.finish_sums();

  const Softmax state(reinterpret_cast<float*>(ring), kVectors);
  const int lane = lane_index();
  constexpr float kUnscale = kType == KvType::kQ8 ? 1.0f / kProbabilityScale : 1.0f;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int v = lane / 4 + r * 8;
    if (lane % 4 == 0) state.largest[v] = softmax.largest[r], state.sum[v] = softmax.sum[r];
#pragma unroll
    for (int j = 0; j < kWidth / 8; ++j) {
      *reinterpret_cast<float2*>(state.values + v * kWidth + j * 8 + lane % 4 * 2) =
          make_float2(softmax.values[j][2 * r] * kUnscale, softmax.values[j][2 * r + 1] * kUnscale);
    }
  }
  const Part part{block - first_block, blocks,
                  t.counters + int64_t{row} * (c.kv_heads * head_tiles) + blockIdx.y};
  finish<R::kWarps, kVectors>(t, reinterpret_cast<float*>(dynamic_shared()), R::kBytes / 4, vectors,
                              part, max_parts, kWidth);
}

template <KvType kType, int kWidth>
void launch_split(const AttentionTask& t, int64_t rows, cudaStream_t stream) {
  using R = Ring<kType, kWidth>;
  const int64_t heads = t.heads / t.cache.kv_heads;
  const int64_t tiles = t.cache.kv_heads * ((heads + kVectors - 1) / kVectors);
  const auto parts = static_cast<unsigned>(attention_parts(t));
  launch({stream, dim3(parts, static_cast<unsigned>(tiles), static_cast<unsigned>(t.cache.n)),
          dim3(R::kWarps * kWarp), static_cast<size_t>(R::kWarps * R::kBytes)},
         split<kType, kWidth>, t, static_cast<int>(attention_cut(t)), static_cast<int>(parts),
         static_cast<int>(rows), static_cast<int>(slot_rows(t)));
}

template <KvType kType>
void launch_type(const AttentionTask& t, int64_t rows, cudaStream_t stream) {
  switch (kv_width(kType, t.cache.e)) {
    case 32:
      return launch_split<kType, 32>(t, rows, stream);
    case 64:
      return launch_split<kType, 64>(t, rows, stream);
    case 96:
      return launch_split<kType, 96>(t, rows, stream);
    case 128:
      return launch_split<kType, 128>(t, rows, stream);
    case 192:
      return launch_split<kType, 192>(t, rows, stream);
    default:
      return launch_split<kType, 256>(t, rows, stream);
  }
}

}  // namespace

void attention_split(const AttentionTask& t, int64_t rows, cudaStream_t stream) {
  switch (t.cache.type) {
    case KvType::kF32:
      return attention_plain(t, stream);
    case KvType::kF16:
      return launch_type<KvType::kF16>(t, rows, stream);
    case KvType::kBF16:
      return launch_type<KvType::kBF16>(t, rows, stream);
    case KvType::kQ8:
      return launch_type<KvType::kQ8>(t, rows, stream);
  }
}

}  // namespace llama_rt::cuda
