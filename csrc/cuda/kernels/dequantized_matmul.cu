// Dequantize-and-multiply fallback: every dtype, any number of inputs, float32
// throughout. A warp has two rows (kSwiglu: one of the gate and the same of the up matrix) and up
// to 8 inputs; its lanes take every 32nd column, so the order of a sum depends on k alone.
#include <algorithm>

#include "cuda/device/blocks.cuh"
#include "cuda/device/warp.cuh"
#include "cuda/kernel_table.h"
#include "cuda/launch.h"

namespace llama_rt::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kRows = 2;
constexpr int kInputs = 8;

// Where a warp's rows are.
struct RowPair {
  const std::byte* data[kRows];
  int64_t row[kRows];
  int job[kRows];
  bool exists[kRows];
};

__device__ RowPair rows_of(const MatmulTask& task, int64_t index) {
  RowPair r{};
  for (int i = 0; i < kRows; ++i) {
    int64_t row = task.epilogue == Epilogue::kSwiglu ? index : index * kRows + i;
    int job = task.epilogue == Epilogue::kSwiglu ? i : 0;
    if (task.epilogue != Epilogue::kSwiglu) {
      while (job < task.jobs && row >= task.job[job].weight.rows)
        row -= task.job[job++].weight.rows;
    }
    r.exists[i] = job < task.jobs && row < task.job[job].weight.rows;
    if (!r.exists[i]) continue;
    r.job[i] = job;
    r.row[i] = row;
    r.data[i] = task.job[job].weight.stored + row * task.job[job].weight.row_bytes;
  }
  return r;
}

__device__ float finished(const MatmulTask& task, const RowPair& rows, int i, float value) {
  const ProductJob& job = task.job[rows.job[i]];
  return job.bias ? value + job.bias[rows.row[i]] : value;
}

template <DType kType>
__global__ void __launch_bounds__(kThreads) stored_kernel(const __grid_constant__ MatmulTask task) {
  __shared__ float factor[kInputs];
  wait_for_previous();
  let_next_start();
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kInputs;
  const int n = static_cast<int>(min(task.n - first, int64_t{kInputs}));
  const float* x = task.x + first * task.x_stride;
  const int lane = lane_index();
  if (task.gain && warp_index() < n) {
    float squares = 0.0f;
    for (int64_t k = lane; k < task.k; k += kWarp) {
      const float v = x[warp_index() * task.x_stride + k];
      squares += v * v;
    }
    squares = warp_sum(squares);
    if (lane == 0) {
      factor[warp_index()] = rsqrtf(squares / static_cast<float>(task.k) + task.eps);
    }
  }
  __syncthreads();

  const RowPair rows = rows_of(task, static_cast<int64_t>(blockIdx.x) * kWarps + warp_index());
  float sum[kRows][kInputs] = {};
  for (int64_t k = lane; k < task.k; k += kWarp) {
    float w[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      w[i] = rows.exists[i] ? row_element<kType>(rows.data[i], k) : 0.0f;
    }
    const float gain = task.gain ? task.gain[k] : 1.0f;
#pragma unroll
    for (int c = 0; c < kInputs; ++c) {
      if (c >= n) break;
      float v = x[c * task.x_stride + k];
      if (task.gain) v = v * factor[c] * gain;
#pragma unroll
      for (int i = 0; i < kRows; ++i) sum[i][c] += w[i] * v;
    }
  }
#pragma unroll
  for (int c = 0; c < kInputs; ++c) {
    if (c >= n) break;
    float value[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) value[i] = warp_sum(sum[i][c]);
    if (lane != 0) continue;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (rows.exists[i]) value[i] = finished(task, rows, i, value[i]);
    }
    const bool swiglu = task.epilogue == Epilogue::kSwiglu;
    if (swiglu) value[0] = value[0] / (1.0f + expf(-value[0])) * value[1];
#pragma unroll
    for (int i = 0; i < (swiglu ? 1 : kRows); ++i) {
      if (!rows.exists[i]) continue;
      const ProductJob& job = task.job[rows.job[i]];
      float* out = job.out + (first + c) * job.out_stride + rows.row[i];
      *out = task.epilogue == Epilogue::kAdd ? *out + value[i] : value[i];
    }
  }
}

template <DType kType>
void multiply(const MatmulTask& task, cudaStream_t stream) {
  int64_t rows = 0;
  for (int j = 0; j < task.jobs; ++j) rows += task.job[j].weight.rows;
  if (rows == 0 || task.n == 0) return;
  // Of a grid's second side there are at most 65535.
  constexpr int64_t kMostInputs = int64_t{65535} * kInputs;
  for (int64_t first = 0; first < task.n; first += kMostInputs) {
    MatmulTask some = task;
    some.x += first * task.x_stride;
    some.n = std::min(task.n - first, kMostInputs);
    for (int j = 0; j < some.jobs; ++j) some.job[j].out += first * some.job[j].out_stride;
    Launch how;
    how.stream = stream;
    how.grid = dim3(blocks_for(rows, kWarps * kRows), blocks_for(some.n, kInputs));
    how.block = dim3(kThreads);
    launch(how, stored_kernel<kType>, some);
  }
}

}  // namespace

void register_dequantized_matmul(Kernels& kernels) {
#define LLAMA_RT_REGISTER(id, ...) \
  kernels.dequantized_matmul[static_cast<size_t>(DType::k##id)] = multiply<DType::k##id>;
  LLAMA_RT_DTYPES(LLAMA_RT_REGISTER)
#undef LLAMA_RT_REGISTER
}

}  // namespace llama_rt::cuda
