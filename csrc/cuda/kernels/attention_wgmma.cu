// Attention of many rows on sm_90a: 128 query vectors of one KV head. A producer brings whole pages
// by bulk copies, and expands them where they are of 8 bits; two warpgroups have 64 vectors each,
// and while the tensor cores work on the scores of the next page and the values of the last, the
// rest of a warpgroup works on the softmax between.
#include "cuda/kernels/attention.cuh"
#include "cuda/kernels/kv_dequantize.cuh"
#include "cuda/kernels/kv_mma.cuh"
#include "cuda/launch.h"

namespace llama_rt::cuda {
namespace {

constexpr int kPage = static_cast<int>(kPageTokens);
constexpr int kGroups = 2;  // warpgroups that compute
constexpr int kGroupThreads = 4 * kWarp;
constexpr int kVectors = 64 * kGroups;
constexpr int kConsumers = kGroups * kGroupThreads;
constexpr int kThreads = kConsumers + kGroupThreads;

// Pages of 16-bit elements, and barriers: keys have come, values have come, the page is read. Those
// of 8 bits come to a ring of their own first.
template <KvType kType, int kWidth>
struct Pages {
  static constexpr bool kExpands = kType == KvType::kQ8;
  static constexpr int kConsumerRegisters = kExpands ? 232 : 240;
  static constexpr int kProducerRegisters = kExpands ? 40 : 24;
  static constexpr int kArrivals = kExpands ? kGroupThreads / kWarp : 1;  // of what has come
  static constexpr int kHalf = kPage * kWidth * 2;                        // keys, or values
  static constexpr int kStages = kExpands ? 4 : kHalf >= 16384 ? 5 : 6;
  static constexpr int kStored = static_cast<int>(head_share<kType>(kWidth));
  static constexpr int kStoredStages = kExpands ? 3 : 0;
  static constexpr int kBarriers = kStages * 2 * kHalf + kStoredStages * kStored;
  static constexpr int kBytes = kBarriers + (3 * kStages + kStoredStages) * 8;

  uint32_t base;
  __device__ uint32_t keys(int i) const { return base + i % kStages * 2 * kHalf; }
  __device__ uint32_t values(int i) const { return keys(i) + kHalf; }
  __device__ uint32_t barrier(int kind, int stage) const {
    return base + kBarriers + static_cast<uint32_t>((kind * kStages + stage) * 8);
  }
  __device__ uint32_t keys_full(int i) const { return barrier(0, i % kStages); }
  __device__ uint32_t values_full(int i) const { return barrier(1, i % kStages); }
  __device__ uint32_t empty(int i) const { return barrier(2, i % kStages); }
  static __device__ uint32_t parity(int i) { return static_cast<uint32_t>(i / kStages & 1); }

  __device__ uint32_t stored(int i) const {
    return base + kStages * 2 * kHalf + i % kStoredStages * kStored;
  }
  __device__ uint32_t stored_full(int i) const { return barrier(3, i % kStoredStages); }
  static __device__ uint32_t stored_parity(int i) {
    return static_cast<uint32_t>(i / kStoredStages & 1);
  }
  __device__ std::byte* memory(uint32_t address) const {
    return dynamic_shared() + (address - base);
  }
};

// The vectors of a block: [first, count) of row * group + head, of KV head g of a segment.
struct Tile {
  int row0, group, head0, first, count;
  int first_page, pages, end;  // positions from `end` on are seen by none

  __device__ int row(int v) const { return row0 + v / group; }
};

template <KvType kType, int kWidth>
__device__ __forceinline__ const std::byte* share_of(const AttentionTask& t, int32_t page, int g) {
  return t.cache.base + page * t.cache.page_bytes + g * head_share<kType>(kWidth);
}

// By one thread; `pages` begins with the tile's first.
template <KvType kType, int kWidth>
__device__ void produce(const AttentionTask& t, const Pages<kType, kWidth>& ring, const Tile& tile,
                        int g, const int32_t* pages) {
  using P = Pages<kType, kWidth>;
  for (int i = 0; i < tile.pages; ++i) {
    const std::byte* share = share_of<kType, kWidth>(t, pages[i], g);
    barrier_wait(ring.empty(i), P::parity(i) ^ 1);
    barrier_arrive_expect(ring.keys_full(i), P::kHalf);
    copy_bulk(ring.keys(i), share, P::kHalf, ring.keys_full(i));
    barrier_arrive_expect(ring.values_full(i), P::kHalf);
    copy_bulk(ring.values(i), share + P::kHalf, P::kHalf, ring.values_full(i));
  }
}

// By a warpgroup, of which one thread copies.
template <KvType kType, int kWidth>
__device__ void produce_expanded(const AttentionTask& t, const Pages<kType, kWidth>& ring,
                                 const Tile& tile, int g, const int32_t* pages) {
  using P = Pages<kType, kWidth>;
  const int thread = static_cast<int>(threadIdx.x) % kGroupThreads;
  const auto load_async = [&](int i) {
    if (thread > 0 || i >= tile.pages) return;
    barrier_arrive_expect(ring.stored_full(i), P::kStored);
    copy_bulk(ring.stored(i), share_of<kType, kWidth>(t, pages[i], g), P::kStored,
              ring.stored_full(i));
  };
  const auto arrive = [](uint32_t barrier) {
    fence_async_proxy();
    __syncwarp();
    if (lane_index() == 0) barrier_arrive(barrier);
  };
  for (int i = 0; i < P::kStoredStages; ++i) load_async(i);
  for (int i = 0; i < tile.pages; ++i) {
    const std::byte* stored = ring.memory(ring.stored(i));
    barrier_wait(ring.stored_full(i), P::stored_parity(i));
    barrier_wait(ring.empty(i), P::parity(i) ^ 1);
    expand_keys<kWidth, kGroupThreads>(ring.memory(ring.keys(i)), stored, thread);
    arrive(ring.keys_full(i));
    expand_values<kWidth, kGroupThreads>(ring.memory(ring.values(i)), stored, thread,
                                         tile.end - (tile.first_page + i) * kPage);
    arrive(ring.values_full(i));
    sync_threads(1 + kGroups, kGroupThreads);  // the stored page is read
    load_async(i + P::kStoredStages);
  }
}

template <KvType kType, int kColumns>
__device__ __forceinline__ void wgmma(float (&d)[kColumns / 2], const uint32_t (&a)[4], uint64_t b,
                                      bool accumulate) {
  if constexpr (kType == KvType::kBF16) {
    wgmma_bf16<kColumns>(d, a, b, accumulate);
  } else {
    wgmma_f16<kColumns>(d, a, b, accumulate);
  }
}

// Begins s = q . keys of page i.
template <KvType kType, int kWidth>
__device__ __forceinline__ void begin_scores(const Pages<kType, kWidth>& ring, int i,
                                             const uint32_t (&q)[kWidth / 16][4], float (&s)[32]) {
  barrier_wait(ring.keys_full(i), ring.parity(i));
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < kWidth / 16; ++k) {
    const uint64_t b = matrix_descriptor(ring.keys(i) + k * 256, 128, kWidth * 16);
    wgmma<kType, kPage>(s, q[k], b, k > 0);
  }
  wgmma_commit();
}

// Begins o += p . values of page i.
template <KvType kType, int kWidth>
__device__ __forceinline__ void begin_values(const Pages<kType, kWidth>& ring, int i,
                                             const uint32_t (&p)[4][4], float (&o)[kWidth / 2]) {
  wgmma_fence();
#pragma unroll
  for (int r = 0; r < kPage / kRun; ++r) {
    const uint64_t b = matrix_descriptor(ring.values(i) + r * kWidth * 32, 128, 256);
    wgmma<kType, kWidth>(o, p[r], b, i > 0 || r > 0);
  }
  wgmma_commit();
}

// Waits for the values of page i. Those of positions from `end` on may be any bits, even NaN, which
// a weight of zero does not make harmless: the warpgroup makes them zero, where nobody has yet.
template <KvType kType, int kWidth>
__device__ __forceinline__ void await_values(const Pages<kType, kWidth>& ring, int i,
                                             const Tile& tile) {
  barrier_wait(ring.values_full(i), ring.parity(i));
  const int written = tile.end - (tile.first_page + i) * kPage;
  if (ring.kExpands || written >= kPage) return;
  std::byte* values = ring.memory(ring.values(i));
  const int thread = static_cast<int>(threadIdx.x) % kGroupThreads;
  for (int f = thread; f < kWidth; f += kGroupThreads) {
    for (int p = written; p < kPage; ++p) {
      *reinterpret_cast<uint16_t*>(values + value_at<kType>(kWidth, p, f)) = 0;
    }
  }
  fence_async_proxy();
  sync_threads(1 + warp_index() / 4, kGroupThreads);
}

// What a lane's two vectors see; all of [begin, end) is seen by every vector of the warp.
struct LaneRows {
  Visible see[2];
  int begin, end;
};

__device__ __forceinline__ LaneRows rows_of(const AttentionTask& t, const Tile& tile, int own) {
  LaneRows rows{{{0, 0}, {0, 0}}, 0, 0};
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int v = own + lane_index() / 4 + r * 8;
    if (v < tile.count) rows.see[r] = visible(t, tile.row(v));
  }
  if (own < tile.count) {
    rows.begin = visible(t, tile.row(min(own + 15, tile.count - 1))).begin;
    rows.end = visible(t, tile.row(own)).end;
  }
  return rows;
}

__device__ __forceinline__ void hide(float (&s)[32], const LaneRows& rows, int position) {
  if (position >= rows.begin && position + kPage <= rows.end) return;
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    const int p = position + i / 4 * 8 + lane_index() % 4 * 2 + i % 2;
    const Visible& see = rows.see[i % 4 / 2];
    if (p < see.begin || p >= see.end) s[i] = -INFINITY;
  }
}

// Probabilities of a page as the left operand of the product with its values.
template <KvType kType>
__device__ __forceinline__ void pack(const float (&s)[32], uint32_t (&p)[4][4]) {
#pragma unroll
  for (int i = 0; i < 16; ++i) p[i / 4][i % 4] = pack_pair<kType>(s[2 * i], s[2 * i + 1]);
}

template <KvType kType, int kWidth>
__device__ __forceinline__ void consume(const AttentionTask& t, const Pages<kType, kWidth>& ring,
                                        const Tile& tile) {
  const int own = tile.first + warp_index() * 16, lane = lane_index();
  const auto address = [&](int v) {
    return (int64_t{tile.row(v)} * t.heads + tile.head0 + v % tile.group) * t.cache.e;
  };
  const LaneRows rows = rows_of(t, tile, own);
  uint32_t q[kWidth / 16][4], p[4][4];
  load_queries<kType, kWidth>(q, static_cast<int>(t.cache.e), t.scale, [&](int i) -> const float* {
    return own + i < tile.count ? t.q + address(own + i) : nullptr;
  });
  float s[32], o[kWidth / 2], scale[2];
  RowSoftmax softmax;
  begin_scores<kType, kWidth>(ring, 0, q, s);
  wgmma_wait<0>();
  wgmma_settle(s);
  hide(s, rows, tile.first_page * kPage);
  softmax.take<8>(s, scale);
  pack<kType>(s, p);
  for (int i = 1; i < tile.pages; ++i) {
    begin_scores<kType, kWidth>(ring, i, q, s);
    await_values<kType, kWidth>(ring, i - 1, tile);
    begin_values<kType, kWidth>(ring, i - 1, p, o);
    wgmma_wait<1>();
    wgmma_settle(s);
    hide(s, rows, (tile.first_page + i) * kPage);
    softmax.take<8>(s, scale);
    wgmma_wait<0>();
    wgmma_settle(o);
    if (lane == 0) barrier_arrive(ring.empty(i - 1));
#pragma unroll
    for (int j = 0; j < kWidth / 2; ++j) o[j] *= scale[j % 4 / 2];
    pack<kType>(s, p);
  }
  await_values<kType, kWidth>(ring, tile.pages - 1, tile);
  begin_values<kType, kWidth>(ring, tile.pages - 1, p, o);
  softmax.finish_sums();
  wgmma_wait<0>();
  wgmma_settle(o);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int v = own + lane / 4 + r * 8;
    if (v >= tile.count) continue;
    float* out = t.out + address(v);
    const float inverse = (ring.kExpands ? 1.0f / kValueScale : 1.0f) / softmax.sum[r];
#pragma unroll
    for (int j = 0; j < kWidth / 4; ++j) {
      const int f = j / 2 * 8 + lane % 4 * 2 + j % 2;
      if (f < t.cache.e) out[f] = o[j / 2 * 4 + 2 * r + j % 2] * inverse;
    }
  }
}

template <KvType kType, int kWidth>
__global__ __launch_bounds__(kThreads, 1) void attention_wgmma_kernel(AttentionTask t,
                                                                      int few_rows) {
  using P = Pages<kType, kWidth>;
  const P ring{shared_address(dynamic_shared())};
  if (threadIdx.x == 0) {
    for (int i = 0; i < P::kStages; ++i) {
      barrier_init(ring.keys_full(i), P::kArrivals);
      barrier_init(ring.values_full(i), P::kArrivals);
      barrier_init(ring.empty(i), kConsumers / kWarp);
    }
    if constexpr (P::kExpands) {
      for (int i = 0; i < P::kStoredStages; ++i) barrier_init(ring.stored_full(i), 1);
    }
    barrier_init_done();
  }
  __syncthreads();
  wait_for_previous();
  let_next_start();
  const CacheTask& c = t.cache;
  const int g = static_cast<int>(blockIdx.x), segment = static_cast<int>(blockIdx.y);
  const int row0 = c.first_row[segment], rows = c.first_row[segment + 1] - row0;
  const int group = static_cast<int>(t.heads / c.kv_heads);
  // The last tiles see most: they begin first.
  const int first = static_cast<int>(gridDim.z - 1 - blockIdx.z) * kVectors;
  Tile tile{row0, group, g * group, first, rows * group, 0, 0, 0};
  if (rows <= few_rows || first >= tile.count) return;
  const int begin = visible(t, tile.row(first)).begin;
  tile.end = visible(t, tile.row(min(first + kVectors, tile.count) - 1)).end;
  tile.first_page = begin / kPage;
  tile.pages = (tile.end + kPage - 1) / kPage - tile.first_page;
  if (warp_index() < kConsumers / kWarp) {
    set_max_registers<P::kConsumerRegisters>();
    consume<kType, kWidth>(t, ring, tile);
  } else {
    give_registers<P::kProducerRegisters>();
    const int32_t* pages = c.pages + segment * c.page_stride + tile.first_page;
    if constexpr (P::kExpands) {
      produce_expanded<kType, kWidth>(t, ring, tile, g, pages);
    } else if (threadIdx.x == kConsumers) {
      produce<kType, kWidth>(t, ring, tile, g, pages);
    }
  }
}

template <KvType kType, int kWidth>
void launch_wgmma(const AttentionTask& t, cudaStream_t stream) {
  const int64_t group = t.heads / t.cache.kv_heads;
  const dim3 grid(static_cast<unsigned>(t.cache.kv_heads), static_cast<unsigned>(t.cache.segments),
                  blocks_for(t.max_rows * group, kVectors));
  launch({stream, grid, dim3(kThreads), static_cast<size_t>(Pages<kType, kWidth>::kBytes)},
         attention_wgmma_kernel<kType, kWidth>, t, static_cast<int>(kFewRows));
}

template <KvType kType>
void launch_type(const AttentionTask& t, int width, cudaStream_t stream) {
  width == 64 ? launch_wgmma<kType, 64>(t, stream) : launch_wgmma<kType, 128>(t, stream);
}

// Widths and types without a form here go as on older devices.
void attention_wgmma(const AttentionTask& t, cudaStream_t stream) {
  const int width = kv_width(t.cache.type, t.cache.e);
  const bool plain = t.reproducible || t.cache.type == KvType::kF32;
  if (plain || (width != 64 && width != 128) || t.max_rows <= kFewRows) {
    return attention(t, stream);
  }
  if (t.cache.segments > 1) attention_split(t, kFewRows, stream);
  switch (t.cache.type) {
    case KvType::kF16:
      return launch_type<KvType::kF16>(t, width, stream);
    case KvType::kBF16:
      return launch_type<KvType::kBF16>(t, width, stream);
    case KvType::kQ8:
      return launch_type<KvType::kQ8>(t, width, stream);
    case KvType::kF32:
      return;
  }
}

}  // namespace

void register_attention_wgmma(Kernels& kernels) { kernels.attention = attention_wgmma; }

}  // namespace llama_rt::cuda
