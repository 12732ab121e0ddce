// What the two kernels of many inputs share: a tile of 8 panels, one per warp, each with 8 * groups
// inputs; a warp's sums are fragments of mma.m16n8k16, 4 values per group of 8 inputs.
#pragma once

#include "cuda/kernels/product.cuh"

namespace llama_rt::cuda {

inline constexpr int kGemmWarps = 8;
inline constexpr int kGemmThreads = kGemmWarps * kWarp;
inline constexpr int kHalf = kGemmWarps / 2;  // panels of half a tile
inline constexpr int kHalfThreads = kHalf * kWarp;
inline constexpr int kGroupBytes = 8 * 128;  // of 8 inputs in a stage

// Shared memory through which half a tile goes to the threads that have the other half.
__host__ __device__ constexpr int exchange_bytes(int groups) {
  return kHalfThreads * groups * 4 * 4;
}

// Plans a launch and queues the preparation of its inputs.
template <DType kType>
ProductPlan prepare_gemm(const ProductTask& task, const TileShape& shape, cudaStream_t stream) {
  using Format = Packed<kType>;
  ProductPlan plan = plan_product(task, Format::kUnitK, Format::kUnitBytes, shape);
  if (plan.tiles == 0) return plan;
  const int64_t inputs = input_bytes(task, kInputParts<kType>, Format::kUnitK);
  prepare_inputs(task, kInputParts<kType>, Format::kUnitK, task.scratch, plan, stream);
  plan.partials = reinterpret_cast<float*>(task.scratch + inputs);
  return plan;
}

// Writes the results of a tile, whose sums the first kGemmThreads threads hold; `sync` is a barrier
// of those.
template <int kValues, class Sync>
__device__ __forceinline__ void finish_gemm_tile(const ProductTask& task, const ProductPlan& plan,
                                                 int tile, float (&sum)[kValues], float* exchange,
                                                 int* flag, Sync sync) {
  const int thread = static_cast<int>(threadIdx.x);
  if (!gather_parts(task, plan, tile, thread, kGemmThreads, sum, flag, sync)) return;
  const int half = warp_index() / kHalf, lane = lane_index();
  const HalfTile where = half_tile<kHalf>(task, plan, tile, half);
  const int64_t row = int64_t{where.panel + warp_index() % kHalf} * kPanelRows + lane / 4;
  const int64_t column = tile % plan.column_tiles * (kValues * 2) + lane % 4 * 2;
  if (plan.input_scale) {
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      const int64_t c = column + i / 4 * 8 + i % 2;
      sum[i] *= c < task.n ? plan.input_scale[c] : 0.0f;
    }
  }
  if (task.epilogue == Epilogue::kSwiglu) {
    float* mine = exchange + thread % kHalfThreads;
    sync();  // the tile before has been read
    if (half == 1) {
#pragma unroll
      for (int i = 0; i < kValues; ++i) mine[i * kHalfThreads] = sum[i];
    }
    sync();
    if (half == 1) return;
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      store_gated(task, row + i % 4 / 2 * 8, column + i / 4 * 8 + i % 2, sum[i],
                  mine[i * kHalfThreads]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      store_result(task, task.job[where.job], row + i % 4 / 2 * 8, column + i / 4 * 8 + i % 2,
                   sum[i]);
    }
  }
}

}  // namespace llama_rt::cuda
