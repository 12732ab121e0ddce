// Inputs of products with many columns: normalised, rounded to 16 bits and cut into core matrices
// of 8 rows and 8 columns (128 contiguous bytes, a row's 8 values together), which ldmatrix and
// wgmma both read as they are. Core (c, g) of columns 8 c and rows 8 g is number
// (c / 8 * groups + g) * 8 + c % 8, so that 64 columns of consecutive groups are one copy.
#include "cuda/kernels/product.cuh"

namespace llama_rt::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kCore = 8;

struct InputTask {
  const float* x;
  int64_t x_stride;
  int64_t n;
  int64_t k;
  int64_t padded_k;
  const float* gain;
  float eps;
  std::byte* out;
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
__global__ void __launch_bounds__(kThreads) inputs_kernel(InputTask task) {
  __shared__ float shared[kWarp];
  wait_for_previous();
  const int64_t i = blockIdx.x;
  const bool exists = i < task.n;
  const float* x = task.x + i * task.x_stride;
  float factor = 1.0f;
  if (exists && task.gain) {
    float squares = 0.0f;
    for (int64_t k = threadIdx.x; k < task.k; k += kThreads) squares += x[k] * x[k];
    factor = rsqrtf(block_sum(squares, shared) / static_cast<float>(task.k) + task.eps);
  }
  const auto value = [&](int64_t k) {
    if (!exists || k >= task.k) return 0.0f;
    return task.gain ? x[k] * factor * task.gain[k] : x[k];
  };
  float scale = 1.0f;
  if constexpr (kParts == 2) {
    float largest = 0.0f;
    for (int64_t k = threadIdx.x; k < task.k; k += kThreads) {
      largest = fmaxf(largest, fabsf(value(k)));
    }
    scale = half_range_scale(block_max(largest, shared));
    if (exists && threadIdx.x == 0) task.scale[i] = 1.0f / scale;
  }
  for (int64_t c = threadIdx.x; c < task.padded_k / kCore; c += kThreads) {
    uint32_t words[kParts][4];
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      const int64_t k = c * kCore + 2 * p;
      uint32_t parts[kParts];
      round_pair<kParts>(value(k) * scale, value(k + 1) * scale, parts);
#pragma unroll
      for (int part = 0; part < kParts; ++part) words[part][p] = parts[part];
    }
    const int64_t core = (c / kCore * task.groups + i / kCore) * kCore + c % kCore;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      std::byte* out = task.out + part * task.part_bytes + core * 128 + i % kCore * 16;
      *reinterpret_cast<uint4*>(out) =
          make_uint4(words[part][0], words[part][1], words[part][2], words[part][3]);
    }
  }
}

int64_t padded(int64_t k, int unit_k) { return (k + unit_k - 1) / unit_k * unit_k; }
int64_t groups_of(int64_t n) { return (n + kCore - 1) / kCore; }
int64_t part_bytes_of(const ProductTask& task, int unit_k) {
  return groups_of(task.n) * kCore * padded(task.k, unit_k) * 2;
}

}  // namespace

int64_t input_bytes(const ProductTask& task, int parts, int unit_k) {
  const int64_t scales = (task.n * 4 + 255) / 256 * 256;
  return parts * part_bytes_of(task, unit_k) + scales;
}

void prepare_inputs(const ProductTask& task, int parts, int unit_k, std::byte* scratch,
                    ProductPlan& plan, cudaStream_t stream) {
  InputTask in{};
  in.x = task.x;
  in.x_stride = task.x_stride;
  in.n = task.n;
  in.k = task.k;
  in.padded_k = padded(task.k, unit_k);
  in.gain = task.gain;
  in.eps = task.eps;
  in.out = scratch;
  in.groups = groups_of(task.n);
  in.part_bytes = part_bytes_of(task, unit_k);
  in.scale = parts == 1 ? nullptr : reinterpret_cast<float*>(scratch + parts * in.part_bytes);
  plan.inputs = in.out;
  plan.input_groups = in.groups;
  plan.part_bytes = in.part_bytes;
  plan.input_scale = in.scale;
  Launch how;
  how.stream = stream;
  how.grid = dim3(static_cast<unsigned>(in.groups * kCore));
  how.block = dim3(kThreads);
  launch(how, parts == 1 ? inputs_kernel<1> : inputs_kernel<2>, in);
}

}  // namespace llama_rt::cuda
