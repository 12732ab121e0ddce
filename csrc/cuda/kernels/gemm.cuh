// What the two kernels of many inputs share: a tile of 8 panels, one per warp, each with 8 * groups
// inputs; a warp's sums are fragments of mma.m16n8k16, 4 values per group of 8 inputs.
#pragma once

#include "cuda/kernels/epilogue.cuh"

namespace llama_rt::cuda {

inline constexpr int kGemmWarps = 8;
inline constexpr int kGemmThreads = kGemmWarps * kWarp;
inline constexpr int kHalf = kGemmWarps / 2;  // panels of half a tile
inline constexpr int kGroupBytes = 8 * 128;   // of 8 inputs in a stage

// Results pass through shared memory, 64 columns at a time, so that neighbours in a row of the
// output are written together and the halves of a gate meet. Columns are 4 floats longer than the
// tile, so that the lanes of a fragment meet different banks.
inline constexpr int kExchangeColumns = 64;
inline constexpr int kExchangeStride = kGemmWarps * kPanelRows + 4;
inline constexpr int kExchangeBytes = kExchangeColumns * kExchangeStride * 4;

// Plans a launch and queues the preparation of its inputs.
template <DType kType>
ProductPlan prepare_gemm(const MatmulTask& task, const TileShape& shape, cudaStream_t stream) {
  using Format = Packed<kType>;
  ProductPlan plan = plan_product(task, Format::kUnitK, Format::kUnitBytes, shape);
  if (plan.tiles == 0) return plan;
  const int64_t inputs = input_bytes(task, kInputParts<kType>, Format::kUnitK);
  prepare_inputs(task, kInputParts<kType>, Format::kUnitK, task.scratch, plan, stream);
  plan.partials = reinterpret_cast<float*>(task.scratch + inputs);
  return plan;
}

// Writes the columns from `first` on that lie in `exchange`.
__device__ __forceinline__ void store_columns(const MatmulTask& task, const ProductPlan& plan,
                                              int tile, int64_t first, const float* exchange) {
  const bool swiglu = task.epilogue == Epilogue::kSwiglu;
  const int rows = kHalf * kPanelRows * (swiglu ? 1 : 2);
  const int thread = static_cast<int>(threadIdx.x), row = thread % rows;
  const HalfTile where = half_tile<kHalf>(task, plan, tile, 0);
  const int64_t at = int64_t{where.panel} * kPanelRows + row;
  for (int c = thread / rows; c < kExchangeColumns; c += kGemmThreads / rows) {
    const int64_t column = first + c;
    if (column >= task.n) return;
    const float* values = exchange + c * kExchangeStride + row;
    const float scale = plan.input_scale ? plan.input_scale[column] : 1.0f;
    if (swiglu) {
      store_gated(task, at, column, values[0] * scale, values[kHalf * kPanelRows] * scale);
    } else {
      store_result(task, task.job[where.job], at, column, values[0] * scale);
    }
  }
}

// Writes the results of a tile, whose sums the first kGemmThreads threads hold; `sync` is a barrier
// of those.
template <int kValues, class Sync>
__device__ __forceinline__ void finish_gemm_tile(const MatmulTask& task, const ProductPlan& plan,
                                                 int tile, float (&sum)[kValues], float* exchange,
                                                 int* flag, Sync sync) {
  const int thread = static_cast<int>(threadIdx.x), lane = lane_index();
  if (!gather_parts(task, plan, tile, thread, kGemmThreads, sum, flag, sync)) return;
  float* mine = exchange + lane % 4 * 2 * kExchangeStride + warp_index() * kPanelRows + lane / 4;
  const int64_t first = int64_t{tile % plan.column_tiles} * (kValues * 2);
  constexpr int kRound = kExchangeColumns / 2;  // values
#pragma unroll
  for (int round = 0; round < kValues / kRound; ++round) {
    sync();  // what was there has been read
#pragma unroll
    for (int i = 0; i < kRound; ++i) {
      mine[(i / 4 * 8 + i % 2) * kExchangeStride + i % 4 / 2 * 8] = sum[round * kRound + i];
    }
    sync();
    store_columns(task, plan, tile, first + round * kExchangeColumns, exchange);
  }
}

}  // namespace llama_rt::cuda
