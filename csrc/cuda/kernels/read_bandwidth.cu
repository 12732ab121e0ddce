#include <algorithm>
#include <string>

#include "cuda/device/warp.cuh"
#include "cuda/launch.h"
#include "cuda/memory.h"

namespace llama_rt::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kBlocksPerProcessor = 4;
constexpr int kFill = 0x5a;
constexpr int kAhead = 8;  // loads of a thread that are on their way at once

// Reads everything and writes nothing: `sink` is only there for the compiler.
__global__ void __launch_bounds__(kThreads)
    read_kernel(const uint4* data, int64_t count, uint32_t* sink) {
  wait_for_previous();
  const int64_t all = static_cast<int64_t>(gridDim.x) * kThreads;
  int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  uint32_t sum = 0;
  for (; i + (kAhead - 1) * all < count; i += kAhead * all) {
    uint4 v[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) v[j] = data[i + j * all];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) sum |= v[j].x | v[j].y | v[j].z | v[j].w;
  }
  for (; i < count; i += all) sum |= data[i].x | data[i].y | data[i].z | data[i].w;
  if (sum == 1) *sink = sum;  // never: every byte is kFill
}

}  // namespace

double read_bandwidth(int index, int multiprocessors, int64_t bytes, double seconds) {
  check(cudaSetDevice(index), "choosing the device");
  const int64_t count = bytes / static_cast<int64_t>(sizeof(uint4));
  const auto storage =
      device_storage(static_cast<size_t>(bytes) + sizeof(uint4), "cuda:" + std::to_string(index));
  cudaStream_t stream = nullptr;
  cudaEvent_t began = nullptr, ended = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "creating a stream");
  check(cudaEventCreate(&began), "creating an event");
  check(cudaEventCreate(&ended), "creating an event");
  check(cudaMemsetAsync(storage->data(), kFill, storage->bytes(), stream), "filling memory");
  const auto pass = [&](int times) {
    check(cudaEventRecord(began, stream), "recording an event");
    for (int i = 0; i < times; ++i) {
      launch({.stream = stream,
              .grid = dim3(static_cast<unsigned>(multiprocessors * kBlocksPerProcessor)),
              .block = dim3(kThreads),
              .overlap = false},
             read_kernel, reinterpret_cast<const uint4*>(storage->data()), count,
             reinterpret_cast<uint32_t*>(storage->data() + bytes / 16 * 16));
    }
    check(cudaEventRecord(ended, stream), "recording an event");
    check(cudaEventSynchronize(ended), "waiting for the device");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, began, ended), "taking the time");
    return std::max(1e-9, static_cast<double>(milliseconds) * 1e-3);
  };
  pass(1);  // clocks rise, the kernel is loaded
  const double once = pass(1);
  const int times = static_cast<int>(std::clamp(seconds / once, 1.0, 1e3));
  const double rate = static_cast<double>(bytes) * times / pass(times);
  (void)cudaEventDestroy(began);
  (void)cudaEventDestroy(ended);
  (void)cudaStreamDestroy(stream);
  return rate;
}

}  // namespace llama_rt::cuda
