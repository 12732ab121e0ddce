// Reductions over a warp and a block, dynamic shared memory, and how a kernel waits for the one
// before it.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace llama_rt::cuda {

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

// Waits until every kernel before this one has finished and its writes are seen. The first thing
// every kernel does; before it only what no kernel writes (weights) may be fetched.
__device__ __forceinline__ void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
#endif
}

// Lets the next kernel be scheduled: it may start up to its own wait_for_previous.
__device__ __forceinline__ void let_next_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cudaTriggerProgrammaticLaunchCompletion();
#endif
}

__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ __forceinline__ int warp_index() { return static_cast<int>(threadIdx.x) / kWarp; }

// The sum or maximum over the lanes of a warp, in every lane.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}
__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, step));
  }
  return value;
}

// The sum over a one-dimensional block, in every thread; `shared` holds 32 floats. Begins and ends
// with a barrier, so that `shared` can be used again.
__device__ __forceinline__ float block_sum(float value, float* shared) {
  const int warps = (static_cast<int>(blockDim.x) + kWarp - 1) / kWarp;
  value = warp_sum(value);
  __syncthreads();
  if (lane_index() == 0) shared[warp_index()] = value;
  __syncthreads();
  float total = 0.0f;
  for (int i = 0; i < warps; ++i) total += shared[i];
  __syncthreads();
  return total;
}

// The launch's dynamic shared memory, 1024-byte aligned.
#if defined(__CUDACC__)
__device__ __forceinline__ std::byte* dynamic_shared() {
  extern __shared__ __align__(1024) unsigned char dynamic_shared_bytes[];
  return reinterpret_cast<std::byte*>(dynamic_shared_bytes);
}
#else
std::byte* dynamic_shared();  // of the emulation that runs kernels as plain C++
#endif

}  // namespace llama_rt::cuda
