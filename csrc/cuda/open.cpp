// Driver and devices: what can be used, and why the rest cannot. The runtime is linked in and looks
// for the driver by itself, so that all this also works where there is none.
#include "cuda/open.h"

#include <cuda_runtime.h>

#include <cstdlib>
#include <sstream>

#include "core/error.h"
#include "cuda/cuda_backend.h"
#include "cuda/memory.h"

namespace llama_rt {
namespace {

constexpr int kLeastMajor = 8;

std::string version_text(int version) {  // 1000 * major + 10 * minor
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// Why no device can be looked at; empty if they can. Fills `count`.
std::string driver_reason(int& count) {
  int driver = 0;
  count = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    (void)cudaGetLastError();
    return "no NVIDIA driver is installed (libcuda.so.1 was not found)";
  }
  const cudaError_t error = cudaGetDeviceCount(&count);
  (void)cudaGetLastError();
  if (error == cudaErrorInsufficientDriver || driver / 1000 < CUDART_VERSION / 1000) {
    count = 0;
    return "the NVIDIA driver supports CUDA " + version_text(driver) + ", this build needs " +
           version_text(CUDART_VERSION / 1000 * 1000) + " or newer: update the driver";
  }
  if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0)) {
    count = 0;
    return "the NVIDIA driver shows no device (is CUDA_VISIBLE_DEVICES set?)";
  }
  if (error != cudaSuccess) {
    count = 0;
    return std::string("the NVIDIA driver answers: ") + cudaGetErrorString(error);
  }
  return "";
}

int attribute(cudaDeviceAttr which, int index) {
  int value = 0;
  if (cudaDeviceGetAttribute(&value, which, index) != cudaSuccess) (void)cudaGetLastError();
  return value;
}

#ifndef LLAMA_RT_CUDA_ARCHITECTURES
#define LLAMA_RT_CUDA_ARCHITECTURES "90"
#endif

// Whether one entry of CMake's list of architectures ("80-real", "90", "90a-real", "90-virtual")
// has code for a device: machine code for its generation, or PTX for an older one.
bool covers(const std::string& entry, int capability) {
  const int number = std::atoi(entry.c_str());
  const bool exact = entry.find_first_of("af") == 2 || entry.find_first_of("af") == 3;
  if (exact) return capability == number;
  const bool machine = entry.find("virtual") == std::string::npos;
  const bool portable = entry.find("real") == std::string::npos;
  return (machine && capability / 10 == number / 10 && capability >= number) ||
         (portable && capability >= number);
}

// Why this build has no kernels for a device; empty if it has.
std::string missing_code(int major, int minor) {
  const std::string all = LLAMA_RT_CUDA_ARCHITECTURES;
  std::istringstream entries(all);
  for (std::string entry; std::getline(entries, entry, ' ');) {
    if (covers(entry, 10 * major + minor)) return "";
  }
  return "this build of llama_rt has code for compute capability " + all + ", the device has " +
         std::to_string(10 * major + minor);
}

// Dense bf16 multiply-adds of one multiprocessor's tensor cores, from the makers' peak rates.
double multiplications_per_clock(int major, int minor) {
  if (major == 8) return minor == 0 ? 1024 : 512;
  return major == 9 || major == 10 ? 2048 : 512;
}

// Bytes that nobody uses now. Asking makes the device's context, which takes a moment and memory.
int64_t free_bytes(int index) {
  size_t free = 0, total = 0;
  if (cudaSetDevice(index) != cudaSuccess || cudaMemGetInfo(&free, &total) != cudaSuccess) {
    (void)cudaGetLastError();
    return 0;
  }
  return static_cast<int64_t>(free);
}

CudaDevice describe(int index) {
  CudaDevice d;
  cudaDeviceProp properties;
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, index); error != cudaSuccess) {
    (void)cudaGetLastError();
    d.reason = std::string("the device answers: ") + cudaGetErrorString(error);
    return d;
  }
  d.name = properties.name;
  d.major = properties.major;
  d.minor = properties.minor;
  d.multiprocessors = properties.multiProcessorCount;
  d.memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  // Two transfers per clock, in kHz, of so many bits.
  d.bandwidth = 2e3 * attribute(cudaDevAttrMemoryClockRate, index) *
                attribute(cudaDevAttrGlobalMemoryBusWidth, index) / 8;
  d.multiply_rate = 1e3 * attribute(cudaDevAttrClockRate, index) * d.multiprocessors *
                    multiplications_per_clock(d.major, d.minor);
  if (d.major < kLeastMajor) {
    d.reason = d.name + " has compute capability " + std::to_string(d.major) + "." +
               std::to_string(d.minor) + ", 8.0 or newer is needed";
  } else {
    d.reason = missing_code(d.major, d.minor);
  }
  return d;
}

}  // namespace

CudaDevices find_cuda() {
  CudaDevices found;
  int count = 0;
  found.reason = driver_reason(count);
  for (int i = 0; i < count; ++i) {
    found.devices.push_back(describe(i));
    if (found.devices.back().reason.empty()) found.devices.back().free_bytes = free_bytes(i);
  }
  return found;
}

namespace {

// The device, known to be usable; throws BackendUnavailable with the reason otherwise.
CudaDevice require_device(int index) {
  const std::string name = "cuda:" + std::to_string(index);
  int count = 0;
  std::string reason = driver_reason(count);
  CudaDevice device;
  if (reason.empty() && index >= count) {
    reason = count == 1 ? "the only device is cuda:0"
                        : "the devices are cuda:0 to cuda:" + std::to_string(count - 1);
  } else if (reason.empty()) {
    device = describe(index);
    reason = device.reason;
  }
  if (!reason.empty()) throw BackendUnavailable(name + " cannot be used: " + reason);
  return device;
}

}  // namespace

double cuda_read_bandwidth(int index, int64_t bytes, double seconds) {
  const CudaDevice device = require_device(index);
  return cuda::read_bandwidth(index, device.multiprocessors, bytes, seconds);
}

std::shared_ptr<Backend> open_cuda(int index, bool reproducible) {
  return std::make_shared<cuda::CudaBackend>(index, require_device(index), reproducible);
}

}  // namespace llama_rt
