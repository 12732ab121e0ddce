// Inputs of GEMMs with many columns: normalised, rounded to 16 bits and cut into core matrices
// of 8 rows and 8 columns (128 contiguous bytes, a row's 8 values together), which ldmatrix and
// wgmma both read as they are. Core (c, g) of columns 8 c and rows 8 g is number
// (c / 8 * groups + g) * 8 + c % 8, so that 64 columns of consecutive groups are one copy.
#include "cuda/kernels/epilogue.cuh"

namespace llama_rt::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kCore = kInputRun;

// Where the prepared inputs of a product go.
struct Prepared {
  std::byte* out;
  int64_t padded_k;
  int64_t groups;
  int64_t part_bytes;
  float* scale;  // [n] or null: no scaling
};

__device__ float block_max(float value, float* shared) {
  value = warp_max(value);
  __syncthreads();
  if (lane_index() == 0) shared[warp_index()] = value;
  __syncthreads();
  for (int i = 0; i < kThreads / kWarp; ++i) value = fmaxf(value, shared[i]);
  return value;
}

// A block makes one row. With two parts the row is scaled so that its largest value is about 2^14.
template <int kParts>
__global__ void __launch_bounds__(kThreads)
    inputs_kernel(const __grid_constant__ MatmulTask task, Prepared to) {
  __shared__ float shared[kWarp];
  wait_for_previous();
  let_next_start();
  const int64_t i = blockIdx.x;
  const bool exists = i < task.n;
  const float* x = task.x + i * task.x_stride;
  const int64_t first = int64_t{threadIdx.x} * kInputRun;
  constexpr int64_t kStride = int64_t{kThreads} * kInputRun;
  float v[kInputRun] = {};
  float factor = 1.0f, scale = 1.0f;
  if (exists && task.gain) {
    float squares = 0.0f;
    for (int64_t k = first; k < task.k; k += kStride) {
      load_run(x, k, task.k, v);
      squares += sum_of_squares(v);
    }
    factor = rsqrtf(block_sum(squares, shared) / static_cast<float>(task.k) + task.eps);
  }
  if (kParts == 2 && exists) {
    float largest = 0.0f;
    for (int64_t k = first; k < task.k; k += kStride) {
      load_input(task, x, k, factor, v);
      largest = fmaxf(largest, largest_of(v));
    }
    scale = half_range_scale(block_max(largest, shared));
    if (threadIdx.x == 0) to.scale[i] = 1.0f / scale;
  }
  for (int64_t k = first; k < to.padded_k; k += kStride) {
    if (exists) load_input(task, x, k, factor, v);
    uint32_t words[kParts][kInputRun / 2];
#pragma unroll
    for (int p = 0; p < kInputRun / 2; ++p) {
      uint32_t parts[kParts];
      round_pair<kParts>(v[2 * p] * scale, v[2 * p + 1] * scale, parts);
#pragma unroll
      for (int part = 0; part < kParts; ++part) words[part][p] = parts[part];
    }
    const int64_t c = k / kCore;
    const int64_t core = (c / kCore * to.groups + i / kCore) * kCore + c % kCore;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      std::byte* out = to.out + part * to.part_bytes + core * 128 + i % kCore * 16;
      *reinterpret_cast<uint4*>(out) =
          make_uint4(words[part][0], words[part][1], words[part][2], words[part][3]);
    }
  }
}

int64_t padded(int64_t k, int unit_k) { return (k + unit_k - 1) / unit_k * unit_k; }
int64_t groups_of(int64_t n) { return (n + kCore - 1) / kCore; }
int64_t part_bytes_of(const MatmulTask& task, int unit_k) {
  return groups_of(task.n) * kCore * padded(task.k, unit_k) * 2;
}

}  // namespace

int64_t input_bytes(const MatmulTask& task, int parts, int unit_k) {
  const int64_t scales = (task.n * 4 + 255) / 256 * 256;
  return parts * part_bytes_of(task, unit_k) + scales;
}

void prepare_inputs(const MatmulTask& task, int parts, int unit_k, std::byte* scratch,
                    ProductPlan& plan, cudaStream_t stream) {
  Prepared to{};
  to.out = scratch;
  to.padded_k = padded(task.k, unit_k);
  to.groups = groups_of(task.n);
  to.part_bytes = part_bytes_of(task, unit_k);
  to.scale = parts == 1 ? nullptr : reinterpret_cast<float*>(scratch + parts * to.part_bytes);
  plan.inputs = to.out;
  plan.input_groups = to.groups;
  plan.part_bytes = to.part_bytes;
  plan.input_scale = to.scale;
  Launch how;
  how.stream = stream;
  how.grid = dim3(static_cast<unsigned>(to.groups * kCore));
  how.block = dim3(kThreads);
  launch(how, parts == 1 ? inputs_kernel<1> : inputs_kernel<2>, task, to);
}

}  // namespace llama_rt::cuda
