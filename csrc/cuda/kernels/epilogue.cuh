// What the packed matmul kernels share: how the work of a launch is dealt to blocks, which
// rows a tile has, the sum of a tile that several blocks computed, and what happens to a result.
//
// A launch is tiles x steps, tile by tile, cut into as many equal ranges as there are blocks: at
// tiles where that is even enough, else anywhere (a tile is then summed by the block that finishes
// last, in the order of the blocks, so that results do not depend on timing).
#pragma once

#include "cuda/device/packed.cuh"
#include "cuda/kernel_table.h"
#include "cuda/launch.h"

namespace llama_rt::cuda {

// Shape of a kernel's tile. Its rows are two halves: consecutive, (kSwiglu) the same rows of the
// gate and of the up matrix, or (kAppend) rows that are rotated together, half a head apart.
struct TileShape {
  int half_panels = 1;
  int columns = 8;
  int units_per_step = 1;  // of each panel
  int blocks_per_processor = 1;
  bool may_cut = true;  // anywhere, not only at tiles
};

struct ProductPlan {
  int units = 0;  // of a panel
  int64_t panel_bytes = 0;
  int steps = 0;  // of a tile
  int tiles = 0;  // column tiles of a row tile first
  int column_tiles = 1;
  int first_tile[kMaxJobs + 1] = {};  // row tiles of the jobs before
  int apart = 1;                      // distance between the two halves of a tile, in half tiles
  int granule = 1;                    // steps of k that one block takes as a unit
  int blocks = 0;
  int share = 0;              // granules of each block
  int longer = 0;             // the first so many blocks have one granule more
  float* partials = nullptr;  // [blocks, 2, values of a tile]
  // Inputs of gemm: core matrices of 8 rows and 8 columns, see quantize_activations.cu.
  const std::byte* inputs = nullptr;
  int64_t input_groups = 0;  // of 8 rows
  int64_t part_bytes = 0;
  const float* input_scale = nullptr;  // [n] what results are multiplied by, or null
};

// ---- Host --------------------------------------------------------------------------------------

struct DeviceLimits {
  int multiprocessors = 0;
  int shared_bytes = 0;  // of a block
};
DeviceLimits device_limits();

ProductPlan plan_product(const MatmulTask& task, int unit_k, int unit_bytes,
                         const TileShape& shape);

// Normalises, rounds and rearranges the inputs of a gemm; fills the plan's part about them.
// `unit_k`: the columns are padded with zeros to whole units.
void prepare_inputs(const MatmulTask& task, int parts, int unit_k, std::byte* scratch,
                    ProductPlan& plan, cudaStream_t stream);
int64_t input_bytes(const MatmulTask& task, int parts, int unit_k);

// Every dtype that has a packed form.
#define LLAMA_RT_PACKED_DTYPES(X) \
  X(F16) X(BF16) X(Q8_0) X(Q4_0) X(Q4_1) X(Q5_0) X(Q5_1) X(Q2_K) X(Q3_K) X(Q4_K) X(Q5_K) X(Q6_K)

// What fills the table, per packed dtype: pack.cu, gemv.cu, gemm_mma.cu, gemm_wgmma.cu.
template <DType kType>
void pack(const PackTask& task, cudaStream_t stream);
template <DType kType>
void matvec(const MatmulTask& task, cudaStream_t stream);  // any n, few at a time
template <DType kType>
void gemm_mma(const MatmulTask& task, cudaStream_t stream);
template <DType kType>
void gemm_wgmma(const MatmulTask& task, cudaStream_t stream);

// Tiles of the kernels; scratch is sized for all of them.
inline constexpr int kMatvecInputs = 8;
inline constexpr TileShape kMatvecShape{1, kMatvecInputs, 8, 1, true};
constexpr TileShape gemm_mma_shape(int groups) {
  return {4, groups * 8, 1, groups > 8 ? 1 : 2, true};
}
constexpr TileShape gemm_wgmma_shape(int groups) { return {4, groups * 8, 1, 1, groups <= 16}; }

// ---- Device: inputs ----------------------------------------------------------------------------

// A power of two that brings values up to `largest` below 2^15.
__device__ __forceinline__ float half_range_scale(float largest) {
  if (!(largest > 0.0f) || largest > 1e38f) return 1.0f;
  int exponent;
  frexpf(largest, &exponent);  // largest < 2^exponent
  return ldexpf(1.0f, max(-120, min(120, 15 - exponent)));
}

// Columns k to k + 7 of a row (or of the gains) of `columns`, all on their way at once; zeros past
// the end.
inline constexpr int kInputRun = 8;
__device__ __forceinline__ void load_run(const float* row, int64_t k, int64_t columns,
                                         float (&v)[kInputRun]) {
  if (k + kInputRun <= columns && reinterpret_cast<uintptr_t>(row + k) % 16 == 0) {
    const float4 a = *reinterpret_cast<const float4*>(row + k);
    const float4 b = *reinterpret_cast<const float4*>(row + k + 4);
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
    v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
    return;
  }
#pragma unroll
  for (int i = 0; i < kInputRun; ++i) v[i] = k + i < columns ? row[k + i] : 0.0f;
}
// The same of an input, normalised: times `factor` and the gains, if any.
__device__ __forceinline__ void load_input(const MatmulTask& task, const float* row, int64_t k,
                                           float factor, float (&v)[kInputRun]) {
  load_run(row, k, task.k, v);
  if (!task.gain) return;
  float gain[kInputRun];
  load_run(task.gain, k, task.k, gain);
#pragma unroll
  for (int i = 0; i < kInputRun; ++i) v[i] = v[i] * factor * gain[i];
}
__device__ __forceinline__ float sum_of_squares(const float (&v)[kInputRun]) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kInputRun; ++i) sum += v[i] * v[i];
  return sum;
}
__device__ __forceinline__ float largest_of(const float (&v)[kInputRun]) {
  float largest = 0.0f;
#pragma unroll
  for (int i = 0; i < kInputRun; ++i) largest = fmaxf(largest, fabsf(v[i]));
  return largest;
}

// A pair of inputs as bfloat16 (one part), or as two pairs of halves that add up to it.
template <int kParts>
__device__ __forceinline__ void round_pair(float low, float high, uint32_t (&parts)[kParts]) {
  if constexpr (kParts == 1) {
    parts[0] = pack_bf16(low, high);
  } else {
    parts[0] = pack_f16(low, high);
    parts[1] = pack_f16(low - half_at(parts[0], 0), high - half_at(parts[0], 1));
  }
}

// ---- Device: the work of a block ---------------------------------------------------------------

__device__ __forceinline__ int range_begin(const ProductPlan& plan, int block) {
  return (block * plan.share + min(block, plan.longer)) * plan.granule;
}
// The block whose range has this step.
__device__ __forceinline__ int owner_of(const ProductPlan& plan, int step) {
  const int granule = step / plan.granule, in_longer = plan.longer * (plan.share + 1);
  return granule < in_longer ? granule / (plan.share + 1)
                             : plan.longer + (granule - in_longer) / plan.share;
}

struct HalfTile {
  int job;
  int panel;  // the first
};
template <int kHalfPanels>
__device__ __forceinline__ HalfTile half_tile(const MatmulTask& task, const ProductPlan& plan,
                                              int tile, int half) {
  const int row_tile = tile / plan.column_tiles;
  if (task.epilogue == Epilogue::kSwiglu) return {half, row_tile * kHalfPanels};
  int job = 0;
  while (row_tile >= plan.first_tile[job + 1]) ++job;
  const int t = row_tile - plan.first_tile[job];
  return {job, ((t / plan.apart * 2 + half) * plan.apart + t % plan.apart) * kHalfPanels};
}

// The part of a range that lies in one tile.
struct Span {
  int tile;
  int first;  // step of the tile
  int count;  // steps
};
__device__ __forceinline__ Span span_at(const ProductPlan& plan, int step, int range_end) {
  const int first = step % plan.steps;
  return {step / plan.steps, first, min(plan.steps - first, range_end - step)};
}

// Goes through the items (kItems per step) of a range ahead of their use, for a warp's panel. Items
// of a span fill rings of kAhead from place 0 on, so a span may end with places left empty.
template <int kHalfPanels, int kItems, int kAhead>
struct PanelCursor {
  const MatmulTask& task;
  const ProductPlan& plan;
  int half, panel_in_half;
  int step, end;                     // of the range; the span's first
  int first = 0, at = 0, count = 0;  // items: the span's first in its tile, the next of it, all
  const std::byte* panel = nullptr;

  __device__ __forceinline__ PanelCursor(const MatmulTask& t, const ProductPlan& p, int half_of,
                                         int within, int range_first, int range_end)
      : task(t), plan(p), half(half_of), panel_in_half(within), step(range_first), end(range_end) {
    begin_span();
  }
  __device__ __forceinline__ void begin_span() {
    at = count = 0;
    if (step >= end) return;
    const Span span = span_at(plan, step, end);
    first = span.first * kItems;
    count = span.count * kItems;
    const HalfTile h = half_tile<kHalfPanels>(task, plan, span.tile, half);
    panel = task.job[h.job].weight.packed + (h.panel + panel_in_half) * plan.panel_bytes;
  }
  __device__ __forceinline__ bool exists() const { return at < count; }
  __device__ __forceinline__ int item() const { return first + at; }
  __device__ __forceinline__ void next() {
    if (++at < (count + kAhead - 1) / kAhead * kAhead) return;
    step += count / kItems;
    begin_span();
  }
};

// ---- Device: results ---------------------------------------------------------------------------

// Adds up what several blocks computed of a tile, `values` of each of the first `threads`. True
// where the sum is then in `values`: in the only block, or in the last. `flag`: a word of shared
// memory; `sync`: a barrier of all threads that come here.
template <int kValues, class Sync>
__device__ __forceinline__ bool gather_parts(const MatmulTask& task, const ProductPlan& plan,
                                             int tile, int thread, int threads,
                                             float (&values)[kValues], int* flag, Sync sync) {
  if (plan.granule > 1) return true;  // tiles were not cut
  const int begin = tile * plan.steps;
  const int first = owner_of(plan, begin), last = owner_of(plan, begin + plan.steps - 1);
  if (first == last) return true;
  const auto part_of = [&](int block) {
    const int slot = 2 * block + (range_begin(plan, block) / plan.steps == tile ? 0 : 1);
    return plan.partials + static_cast<int64_t>(slot) * kValues * threads + thread;
  };
  if (thread < threads) {
    float* mine = part_of(static_cast<int>(blockIdx.x));
#pragma unroll
    for (int i = 0; i < kValues; ++i) __stcg(mine + i * threads, values[i]);
    __threadfence();
  }
  sync();
  if (thread == 0)
    *flag = atomicAdd(task.counters + tile, 1u) == static_cast<unsigned>(last - first);
  sync();
  if (*flag == 0) return false;
  if (thread == 0) task.counters[tile] = 0;
  if (thread >= threads) return true;
  __threadfence();
#pragma unroll
  for (int i = 0; i < kValues; ++i) values[i] = 0.0f;
  for (int block = first; block <= last; ++block) {
    const float* part = part_of(block);
#pragma unroll
    for (int i = 0; i < kValues; ++i) values[i] += __ldcg(part + i * threads);
  }
  return true;
}

__device__ __forceinline__ float with_bias(const ProductJob& job, int64_t row, float value) {
  return job.bias ? value + job.bias[row] : value;
}

__device__ __forceinline__ void store_result(const MatmulTask& task, const ProductJob& job,
                                             int64_t row, int64_t column, float value) {
  if (row >= job.weight.rows || column >= task.n) return;
  float* out = job.out + column * job.out_stride + row;
  value = with_bias(job, row, value);
  *out = task.epilogue == Epilogue::kAdd ? *out + value : value;
}
__device__ __forceinline__ void store_gated(const MatmulTask& task, int64_t row, int64_t column,
                                            float gate, float up) {
  if (row >= task.job[0].weight.rows || column >= task.n) return;
  gate = with_bias(task.job[0], row, gate);
  up = with_bias(task.job[1], row, up);
  task.job[0].out[column * task.job[0].out_stride + row] = gate / (1.0f + expf(-gate)) * up;
}

}  // namespace llama_rt::cuda
