// Products with any number of inputs on the tensor cores of sm_80 and later. A block of 8 warps has
// a tile of 8 panels of 16 rows; each warp streams its own panel from global memory into registers
// (every weight is read by one warp of the block) and expands it there. The inputs of 64 columns of
// k at a time lie in a ring of shared memory that all warps read.
#include "cuda/kernels/gemm.cuh"

namespace llama_rt::cuda {
namespace {

constexpr int kThreads = kGemmThreads;
constexpr int kStages = 4;

// kGroups: of 8 inputs in a tile.
template <DType kType, int kGroups>
struct Tile {
  static constexpr int kParts = kInputParts<kType>;
  static constexpr int kPartBytes = kGroups * kGroupBytes;
  static constexpr int kStageBytes = kParts * kPartBytes;
  static constexpr int kRing = kStages * kStageBytes;
  static constexpr int kShared = kRing + exchange_bytes(kGroups) + 16;
  static constexpr TileShape kShape = gemm_mma_shape(kGroups);
};

// Goes through the chunks of a range and starts their copies.
template <DType kType, int kGroups>
struct InputCursor {
  using Shape = Tile<kType, kGroups>;
  const ProductPlan& plan;
  int chunks;  // of a tile
  int left;    // to be copied
  int group;   // first of the tile
  int tile, chunk, stage = 0;

  __device__ InputCursor(const ProductPlan& p, int begin, int end, int chunks_of_step)
      : plan(p),
        chunks(p.steps * chunks_of_step),
        left((end - begin) * chunks_of_step),
        group(begin / p.steps % p.column_tiles * kGroups),
        tile(begin / p.steps),
        chunk(begin % p.steps * chunks_of_step) {}

  // The next chunk, if any, into the next stage; always one group of copies.
  __device__ __forceinline__ void copy(uint32_t ring) {
    if (left-- > 0) {
      const int64_t from = (chunk * plan.input_groups + group) * kGroupBytes;
      const int64_t groups_left = plan.input_groups - group;
      const int bytes = static_cast<int>(min(groups_left, int64_t{kGroups})) * kGroupBytes;
#pragma unroll
      for (int part = 0; part < Shape::kParts; ++part) {
        const uint32_t to = ring + stage * Shape::kStageBytes + part * Shape::kPartBytes;
        for (int at = static_cast<int>(threadIdx.x) * 16; at < bytes; at += kThreads * 16) {
          copy_async(to + at, plan.inputs + part * plan.part_bytes + from + at);
        }
      }
      if (++chunk == chunks) {
        chunk = 0;
        group = ++tile % plan.column_tiles * kGroups;
      }
    }
    copy_async_commit();
    stage = (stage + 1) % kStages;
  }
};

// sum += four tiles of a unit, from number `first`, times a stage of inputs; `groups` of them
// exist.
template <DType kType, int kGroups>
__device__ __forceinline__ void multiply_chunk(const typename Packed<kType>::Unit& unit, int first,
                                               uint32_t stage, int groups,
                                               float (&sum)[kGroups * 4]) {
  using Shape = Tile<kType, kGroups>;
#pragma unroll
  for (int pair = 0; pair < kChunkTiles / 2; ++pair) {
    Fragment a[2];
    expanded_tile<Packed<kType>>(unit, first + 2 * pair, a[0]);
    expanded_tile<Packed<kType>>(unit, first + 2 * pair + 1, a[1]);
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      if (g >= groups) break;
#pragma unroll
      for (int part = 0; part < Shape::kParts; ++part) {
        uint32_t b[4];
        ldmatrix_x4(
            b, stage + part * Shape::kPartBytes + g * kGroupBytes + pair * 512 + lane_index() * 16);
        auto& d = reinterpret_cast<float (&)[4]>(sum[4 * g]);
        multiply_tile<kType>(d, a[0], b[0], b[1]);
        multiply_tile<kType>(d, a[1], b[2], b[3]);
      }
    }
  }
}

template <DType kType, int kGroups>
__global__ void __launch_bounds__(kThreads, kGroups > 8 ? 1 : 2)
    gemm_mma_kernel(const __grid_constant__ ProductTask task,
                    const __grid_constant__ ProductPlan plan) {
  using Format = Packed<kType>;
  using Shape = Tile<kType, kGroups>;
  constexpr int kChunks = Format::kTiles / kChunkTiles;  // of a unit
  constexpr int kAhead = 2;                              // units of weights in registers
  const int begin = range_begin(plan, static_cast<int>(blockIdx.x));
  const int end = range_begin(plan, static_cast<int>(blockIdx.x) + 1);
  const int lane = lane_index();

  PanelCursor<kHalf> ahead(task, plan, warp_index() / kHalf, warp_index() % kHalf, begin);
  typename Format::Unit units[kAhead];
  const auto fetch = [&](typename Format::Unit& unit) {
    Format::load(unit, ahead.panel + static_cast<int64_t>(ahead.step) * Format::kUnitBytes, lane);
    ahead.next();
  };
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
    if (begin + i < end) fetch(units[i]);
  }
  wait_for_previous();
  let_next_start();

  const uint32_t ring = shared_address(dynamic_shared());
  auto* exchange = reinterpret_cast<float*>(dynamic_shared() + Shape::kRing);
  auto* flag = reinterpret_cast<int*>(dynamic_shared() + Shape::kRing + exchange_bytes(kGroups));
  InputCursor<kType, kGroups> inputs(plan, begin, end, kChunks);
  for (int i = 0; i < kStages - 1; ++i) inputs.copy(ring);

  int tile = begin / plan.steps, step = begin % plan.steps, stage = 0;
  float sum[kGroups * 4] = {};
  for (int i = begin; i < end; i += kAhead) {
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (i + j >= end) break;
      const int groups = static_cast<int>(plan.input_groups) - tile % plan.column_tiles * kGroups;
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        copy_async_wait<kStages - 2>();
        __syncthreads();
        inputs.copy(ring);
        multiply_chunk<kType, kGroups>(units[j], c * kChunkTiles, ring + stage * Shape::kStageBytes,
                                       groups, sum);
        stage = (stage + 1) % kStages;
      }
      if (i + j + kAhead < end) fetch(units[j]);
      if (++step < plan.steps && i + j + 1 < end) continue;
      finish_gemm_tile(task, plan, tile, sum, exchange, flag, [] { __syncthreads(); });
#pragma unroll
      for (int v = 0; v < kGroups * 4; ++v) sum[v] = 0.0f;
      step = 0;
      ++tile;
    }
  }
  copy_async_wait<0>();
}

template <DType kType, int kGroups>
void run(const ProductTask& task, cudaStream_t stream) {
  using Shape = Tile<kType, kGroups>;
  const ProductPlan plan = prepare_gemm<kType>(task, Shape::kShape, stream);
  if (plan.tiles == 0) return;
  Launch how;
  how.stream = stream;
  how.grid = dim3(static_cast<unsigned>(plan.blocks));
  how.block = dim3(kThreads);
  how.shared_bytes = Shape::kShared;
  launch(how, gemm_mma_kernel<kType, kGroups>, task, plan);
}

}  // namespace

// Tiles of 64 inputs, or of 128 where there are as many; F16 weights have two parts of each input.
template <DType kType>
void gemm_mma(const ProductTask& task, cudaStream_t stream) {
  if (kInputParts<kType> == 1 && task.n > 64) {
    run<kType, kInputParts<kType> == 1 ? 16 : 8>(task, stream);
  } else {
    run<kType, 8>(task, stream);
  }
}

#define LLAMA_RT_INSTANCE(id) \
  template void gemm_mma<DType::k##id>(const ProductTask&, cudaStream_t);
LLAMA_RT_PACKED_DTYPES(LLAMA_RT_INSTANCE)
#undef LLAMA_RT_INSTANCE

}  // namespace llama_rt::cuda
