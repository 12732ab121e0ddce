// Small kernels with known results, and small kernels with one mistake each: what the emulated
// device must compute and what it must notice. Loaded by test_emulation.py.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstring>

#include "cuda/device/ptx.cuh"
#include "cuda/device/warp.cuh"

namespace llama_rt::cuda {
namespace {

// a [16, 16] by rows, b [8, 16] (column n of the product's b as a row), d [16, 8] += a b.
template <bool kHalf>
__global__ void one_mma(const uint16_t* a, const uint16_t* b, float* d) {
  auto* shared = reinterpret_cast<uint16_t*>(dynamic_shared());
  const int lane = lane_index();
  for (int i = lane; i < 256; i += 32) shared[i] = a[i];
  for (int i = lane; i < 128; i += 32) shared[256 + i] = b[i];
  __syncwarp();
  uint32_t x[4], y[4];
  // Matrices: rows 0-7 and 8-15 of columns 0-7, then of columns 8-15.
  ldmatrix_x4(x, shared_address(shared + lane % 16 * 16 + lane / 16 * 8));
  ldmatrix_x4(y, shared_address(shared + 256 + lane % 8 * 16 + lane / 8 % 2 * 8));
  float acc[4];
  for (int i = 0; i < 4; ++i) acc[i] = d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2];
  if (kHalf) {
    mma_f16(acc, x, y[0], y[1]);
  } else {
    mma_bf16(acc, x, y[0], y[1]);
  }
  for (int i = 0; i < 4; ++i) d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = acc[i];
}

// out [8, 8] = the transposed of in [8, 8], four times.
__global__ void transpose(const uint16_t* in, uint16_t* out) {
  auto* shared = reinterpret_cast<uint16_t*>(dynamic_shared());
  const int lane = lane_index();
  for (int i = lane; i < 64; i += 32) shared[i] = in[i];
  __syncwarp();
  uint32_t x[4];
  ldmatrix_x4_trans(x, shared_address(shared + lane % 8 * 8));
  for (int m = 0; m < 4; ++m) {
    std::memcpy(out + 64 * m + lane / 4 * 8 + lane % 4 * 2, &x[m], 4);
  }
}

// d [64, 64] = a [64, 16] b [64, 16]^T by a warpgroup, b brought by the copy engine as cores.
__global__ void one_wgmma(const uint16_t* a, const uint16_t* cores, float* d) {
  const uint32_t barrier = shared_address(dynamic_shared()), b = barrier + 128;
  if (threadIdx.x == 0) {
    barrier_init(barrier, 1);
    barrier_init_done();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    barrier_arrive_expect(barrier, 2048);
    copy_bulk(b, cores, 2048, barrier);
  }
  barrier_wait(barrier, 0);
  const int lane = lane_index(), row = 16 * warp_index() + lane / 4;
  uint32_t x[4];
  for (int i = 0; i < 4; ++i) {
    std::memcpy(&x[i], a + (row + i % 2 * 8) * 16 + i / 2 * 8 + lane % 4 * 2, 4);
  }
  float acc[32];
  wgmma_fence();
  wgmma_bf16<64>(acc, x, matrix_descriptor(b, 128, 256), false);
  wgmma_commit();
  wgmma_wait<0>();
  for (int i = 0; i < 32; ++i) {
    d[(row + i / 2 % 2 * 8) * 64 + i / 4 * 8 + lane % 4 * 2 + i % 2] = acc[i];
  }
}

// Sums of a block, through shuffles and shared memory.
__global__ void sum(const float* x, float* out) {
  const float total = block_sum(x[threadIdx.x], reinterpret_cast<float*>(dynamic_shared()));
  if (threadIdx.x == 0) *out = total;
}

// A copy and its wait, which each of the two mistakes leaves out in part.
template <bool kWait, bool kBarrier>
__global__ void copy(const float* x, float* out) {
  auto* shared = reinterpret_cast<float*>(dynamic_shared());
  copy_async(shared_address(shared + 4 * threadIdx.x), x + 4 * threadIdx.x);
  copy_async_commit();
  copy_async_wait<kWait ? 0 : 1>();
  if (kBarrier) __syncthreads();
  for (int i = 0; i < 4; ++i) out[4 * threadIdx.x + i] = shared[(4 * threadIdx.x + i + 4) % 256];
  if (!kWait) copy_async_wait<0>();
}

__global__ void part_of_a_barrier() {
  if (threadIdx.x < 32) __syncthreads();
}
__global__ void two_instructions() {
  if (threadIdx.x % 2) {
    __shfl_xor_sync(kAllLanes, 1, 1);
  } else {
    __ballot_sync(kAllLanes, 1);
  }
}
__global__ void past_the_end() { dynamic_shared()[64 + threadIdx.x] = std::byte{1}; }
__global__ void unset(float* out) { *out = reinterpret_cast<float*>(dynamic_shared())[0]; }
__global__ void misaligned() {
  auto* shared = dynamic_shared();
  uint32_t x[4];
  ldmatrix_x4(x, shared_address(shared + 8));
}
__global__ void no_fence(float* d) {
  float acc[32];
  const uint32_t x[4] = {};
  wgmma_bf16<64>(acc, x, matrix_descriptor(0, 128, 256), false);
  wgmma_commit();
  wgmma_wait<0>();
  *d = acc[0];
}
__global__ void never_arrives() {
  const uint32_t barrier = shared_address(dynamic_shared());
  if (threadIdx.x == 0) barrier_init(barrier, 2);
  __syncthreads();
  if (threadIdx.x == 0) barrier_arrive(barrier);
  barrier_wait(barrier, 0);
}

// What a kernel may not do with what the one ahead of it writes, and the right way.
__global__ void numbers(float* x) { x[threadIdx.x] = static_cast<float>(threadIdx.x); }
enum class Early { kNothing, kRead, kCopy, kWrite };
template <Early kEarly>
__global__ void follow(float* x, float* out) {
  const auto i = threadIdx.x;
  const uint32_t at = shared_address(dynamic_shared()) + 16 * i;
  if (kEarly == Early::kCopy && i == 0) copy_async(at, x);
  if (kEarly == Early::kWrite) x[i] = 1.0f;
  float value = x[i];
  wait_for_previous();
  if (kEarly != Early::kRead) value = x[i];
  copy_async_commit();
  copy_async_wait<0>();
  out[i] = value;
}

template <Early kEarly>
const char* run_two(float* out) {
  constexpr unsigned kThreads = 64;
  float* memory = nullptr;
  cudaMalloc(reinterpret_cast<void**>(&memory), 2 * kThreads * sizeof(float));
  cudaStream_t stream;
  cudaStreamCreate(&stream);
  cudaLaunchAttribute attribute{cudaLaunchAttributeProgrammaticStreamSerialization, {1}};
  cudaLaunchConfig_t config{1, kThreads, 1024, stream, &attribute, 0};
  cudaLaunchKernelEx(&config, numbers, memory);
  config.numAttrs = 1;
  cudaLaunchKernelEx(&config, follow<kEarly>, memory, memory + kThreads);
  cudaMemcpyAsync(out, memory + kThreads, kThreads * sizeof(float), cudaMemcpyDeviceToHost, stream);
  const cudaError_t error = cudaStreamSynchronize(stream);
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

template <class... P, class... A>
const char* run(int threads, void (*kernel)(P...), A... arguments) {
  static std::string text;
  try {
    emulation::run_grid(1, static_cast<unsigned>(threads), 4096 - 128, false,
                        [&] { kernel(arguments...); });
    return nullptr;
  } catch (const emulation::Fault& fault) {
    text = fault.what();
    return text.c_str();
  }
}

}  // namespace
}  // namespace llama_rt::cuda

using namespace llama_rt::cuda;

extern "C" {
void set_descending(int yes) {
  emulation::set_order(yes ? emulation::Order::kDescending : emulation::Order::kAscending);
}
const char* check_mma(int half, const uint16_t* a, const uint16_t* b, float* d) {
  return half ? run(32, one_mma<true>, a, b, d) : run(32, one_mma<false>, a, b, d);
}
const char* check_transpose(const uint16_t* in, uint16_t* out) {
  return run(32, transpose, in, out);
}
const char* check_wgmma(const uint16_t* a, const uint16_t* cores, float* d) {
  return run(128, one_wgmma, a, cores, d);
}
const char* check_sum(int threads, const float* x, float* out) { return run(threads, sum, x, out); }
const char* check_copy(int wait, int barrier, const float* x, float* out) {
  if (!wait) return run(64, copy<false, true>, x, out);
  return barrier ? run(64, copy<true, true>, x, out) : run(64, copy<true, false>, x, out);
}
const char* check_unset(float* out) { return run(1, unset, out); }
const char* part_of_a_barrier_fault() { return run(64, part_of_a_barrier); }
const char* two_instructions_fault() { return run(32, two_instructions); }
const char* past_the_end_fault() {
  static std::string text;
  try {
    emulation::run_grid(2, 32, 64, false, [] { past_the_end(); });
    return nullptr;
  } catch (const emulation::Fault& fault) {
    text = fault.what();
    return text.c_str();
  }
}
const char* misaligned_fault() { return run(32, misaligned); }
const char* no_fence_fault() {
  float d;
  return run(128, no_fence, &d);
}
const char* never_arrives_fault() { return run(64, never_arrives); }
const char* check_follow(int reads_early, float* out) {
  return reads_early ? run_two<Early::kRead>(out) : run_two<Early::kNothing>(out);
}
const char* early_copy_fault() {
  float out[64];
  return run_two<Early::kCopy>(out);
}
const char* early_write_fault() {
  float out[64];
  return run_two<Early::kWrite>(out);
}
// Mistakes of the host: a kernel that does not wait for the one before it, memory not asked for.
const char* dependent_fault() {
  cudaStream_t stream;
  cudaStreamCreate(&stream);
  cudaLaunchAttribute attribute{cudaLaunchAttributeProgrammaticStreamSerialization, {1}};
  cudaLaunchConfig_t config{1, 32, 64, stream, &attribute, 1};
  cudaLaunchKernelEx(&config, past_the_end);
  const cudaError_t error = cudaStreamSynchronize(stream);
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}
}
