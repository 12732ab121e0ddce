// Ops on single values or rows: embedding, norm, rotation, SwiGLU, gathering rows, and the small
// combinations that adapters add. All are bound by memory or by their launch.
#include "cuda/device/blocks.cuh"
#include "cuda/device/warp.cuh"
#include "cuda/kernel_table.h"
#include "cuda/launch.h"

namespace llama_rt::cuda {
namespace {

constexpr int kThreads = 256;

// Blocks of a kernel whose threads take one item each, in turns where there are very many.
unsigned grid_for(int64_t items) {
  constexpr int64_t kMost = 1 << 16;
  return blocks_for(items < kMost * kThreads ? items : kMost * kThreads, kThreads);
}
__device__ __forceinline__ int64_t first_item() {
  return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}
__device__ __forceinline__ int64_t all_threads() {
  return static_cast<int64_t>(gridDim.x) * kThreads;
}

// A block per token and 4096 columns.
constexpr int64_t kEmbedColumns = 4096;

template <DType kType>
__global__ void __launch_bounds__(kThreads) embed_kernel(EmbedTask t) {
  wait_for_previous();
  let_next_start();
  const int64_t i = blockIdx.x;
  const std::byte* row = t.table + max(t.tokens[i], 0) * t.row_bytes;
  const int64_t begin = blockIdx.y * kEmbedColumns;
  const int64_t end = begin + kEmbedColumns < t.d ? begin + kEmbedColumns : t.d;
  for (int64_t j = begin + threadIdx.x; j < end; j += kThreads) {
    t.out[i * t.d + j] = row_element<kType>(row, j);
  }
}

void embed(const EmbedTask& t, cudaStream_t stream) {
  const Launch how{.stream = stream,
                   .grid = dim3(static_cast<unsigned>(t.n), blocks_for(t.d, kEmbedColumns)),
                   .block = dim3(kThreads)};
  switch (t.dtype) {
#define LLAMA_RT_EMBED(id, ...) \
  case DType::k##id:            \
    return launch(how, embed_kernel<DType::k##id>, t);
    LLAMA_RT_DTYPES(LLAMA_RT_EMBED)
#undef LLAMA_RT_EMBED
  }
}

// A block per row: x / sqrt(mean(x^2) + eps) * gain.
__global__ void __launch_bounds__(kThreads) norm_kernel(NormTask t) {
  __shared__ float shared[kWarp];
  wait_for_previous();
  let_next_start();
  const float* x = t.x + blockIdx.x * t.d;
  float* out = t.out + blockIdx.x * t.d;
  float squares = 0.0f;
  for (int64_t j = threadIdx.x; j < t.d; j += kThreads) squares += x[j] * x[j];
  const float mean = block_sum(squares, shared) / static_cast<float>(t.d);
  const float factor = 1.0f / sqrtf(mean + t.eps);
  for (int64_t j = threadIdx.x; j < t.d; j += kThreads) out[j] = x[j] * factor * t.gain[j];
}

void rms_norm(const NormTask& t, cudaStream_t stream) {
  launch({.stream = stream, .grid = dim3(static_cast<unsigned>(t.n)), .block = dim3(kThreads)},
         norm_kernel, t);
}

// A thread per pair: (x, y) -> (x cos - y sin, x sin + y cos).
__global__ void __launch_bounds__(kThreads) rope_kernel(RopeTask t) {
  wait_for_previous();
  let_next_start();
  const int64_t half = t.e / 2, pairs = t.n * t.heads * half;
  for (int64_t i = first_item(); i < pairs; i += all_threads()) {
    const int64_t pair = i % half, head = i / half, row = head / t.heads;
    const bool halves = t.style == RopeStyle::kHalves;
    float* first = t.x + head * t.e + (halves ? pair : 2 * pair);
    float* second = first + (halves ? half : 1);
    const float c = t.cos[row * half + pair], s = t.sin[row * half + pair];
    const float x = *first, y = *second;
    *first = x * c - y * s;
    *second = x * s + y * c;
  }
}

void rope(const RopeTask& t, cudaStream_t stream) {
  launch(
      {.stream = stream, .grid = dim3(grid_for(t.n * t.heads * t.e / 2)), .block = dim3(kThreads)},
      rope_kernel, t);
}

__global__ void __launch_bounds__(kThreads) swiglu_kernel(SwigluTask t) {
  wait_for_previous();
  let_next_start();
  for (int64_t i = first_item(); i < t.count; i += all_threads()) {
    const float gate = t.gate[i];
    t.out[i] = gate / (1.0f + expf(-gate)) * t.up[i];
  }
}

void swiglu(const SwigluTask& t, cudaStream_t stream) {
  launch({.stream = stream, .grid = dim3(grid_for(t.count)), .block = dim3(kThreads)},
         swiglu_kernel, t);
}

__global__ void __launch_bounds__(kThreads) gather_kernel(GatherTask t) {
  wait_for_previous();
  let_next_start();
  const float* from = t.x + t.rows[blockIdx.x] * t.d;
  float* to = t.out + blockIdx.x * t.d;
  for (int64_t j = threadIdx.x; j < t.d; j += kThreads) to[j] = from[j];
}

void gather(const GatherTask& t, cudaStream_t stream) {
  launch({.stream = stream, .grid = dim3(static_cast<unsigned>(t.n)), .block = dim3(kThreads)},
         gather_kernel, t);
}

__global__ void __launch_bounds__(kThreads) combine_kernel(CombineTask t) {
  wait_for_previous();
  let_next_start();
  const int64_t count = t.rows * t.width;
  for (int64_t i = first_item(); i < count; i += all_threads()) {
    float value = t.factor;
    if (t.x) value *= t.x[i];
    if (t.by) value *= t.by[i % t.width / t.repeat];
    t.y[i] = t.accumulate ? t.y[i] + value : value;
  }
}

void combine(const CombineTask& t, cudaStream_t stream) {
  launch({.stream = stream, .grid = dim3(grid_for(t.rows * t.width)), .block = dim3(kThreads)},
         combine_kernel, t);
}

}  // namespace

void register_elementwise(Kernels& kernels) {
  kernels.embed = embed;
  kernels.rms_norm = rms_norm;
  kernels.rope = rope;
  kernels.swiglu = swiglu;
  kernels.gather = gather;
  kernels.combine = combine;
}

}  // namespace llama_rt::cuda
