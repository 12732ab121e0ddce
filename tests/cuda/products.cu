// Products called from test_products.py: packs a stored matrix on the emulated device and
// multiplies by one of the kernels.
#include <memory>
#include <string>
#include <vector>

#include "cuda/kernels/product.cuh"
#include "execution.h"

namespace llama_rt::cuda {

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) {
    throw emulation::Fault(std::string(what) + ": " + cudaGetErrorString(error));
  }
}
static bool overlap = true;
void allow_overlap(bool allowed) { overlap = allowed; }
bool overlap_allowed() { return overlap; }

namespace {

// Bytes on the device, freed with the object.
struct DeviceBytes {
  std::byte* data = nullptr;
  size_t size = 0;
  explicit DeviceBytes(size_t bytes) : size(bytes) {
    void* p = nullptr;
    check(cudaMalloc(&p, bytes + 256), "cudaMalloc");
    data = static_cast<std::byte*>(p);
  }
  DeviceBytes(const void* from, size_t bytes) : DeviceBytes(bytes) {
    check(cudaMemcpy(data, from, bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  DeviceBytes(const DeviceBytes&) = delete;
  ~DeviceBytes() { cudaFree(data); }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data);
  }
};

Kernels table(bool wgmma) {
  Kernels kernels;
  paint_stored(kernels);
  paint_products(kernels);
  if (wgmma) paint_wgmma(kernels);
  return kernels;
}

std::string fault;

}  // namespace
}  // namespace llama_rt::cuda

// How one product is asked for; arrays are numpy's.
struct Request {
  int kernel;  // 0 stored, 1 matvec, 2 gemm (mma), 3 gemm (wgmma)
  int dtype;
  int jobs;
  int epilogue;
  int reproducible;
  int64_t n, k, row_bytes;
  float eps;
  const float* x;
  const float* gain;  // or null
  int64_t rows[3];
  const uint8_t* weight[3];
  const float* bias[3];  // or null
  float* out[3];         // [n, rows]
};

extern "C" const char* multiply(const Request* r) {
  using namespace llama_rt;
  using namespace llama_rt::cuda;
  try {
    const Kernels kernels = table(r->kernel == 3);
    const auto dtype = static_cast<DType>(r->dtype);
    const ProductFormat& format = kernels.product[static_cast<size_t>(r->dtype)];
    const DeviceBytes x(r->x, static_cast<size_t>(r->n * r->k) * 4);
    std::vector<std::unique_ptr<DeviceBytes>> held;
    const auto hold = [&](const void* from, int64_t bytes) {
      held.push_back(from ? std::make_unique<DeviceBytes>(from, static_cast<size_t>(bytes))
                          : std::make_unique<DeviceBytes>(static_cast<size_t>(bytes)));
      return held.back()->data;
    };
    ProductTask task;
    task.x = x.as<float>();
    task.x_stride = r->k;
    task.n = r->n;
    task.k = r->k;
    if (r->gain) task.gain = reinterpret_cast<float*>(hold(r->gain, r->k * 4));
    task.eps = r->eps;
    task.jobs = r->jobs;
    task.epilogue = static_cast<Epilogue>(r->epilogue);
    task.reproducible = r->reproducible != 0;
    const std::vector<uint32_t> zeros(kProductCounters, 0);
    const auto* counters = hold(zeros.data(), kProductCounters * 4);
    task.counters = reinterpret_cast<uint32_t*>(const_cast<std::byte*>(counters));
    for (int j = 0; j < r->jobs; ++j) {
      ProductJob& job = task.job[j];
      job.weight = {r->rows[j],   r->k,   dtype, hold(r->weight[j], r->rows[j] * r->row_bytes),
                    r->row_bytes, nullptr};
      job.bias = r->bias[j] ? reinterpret_cast<float*>(hold(r->bias[j], r->rows[j] * 4)) : nullptr;
      job.out = reinterpret_cast<float*>(hold(r->out[j], r->n * r->rows[j] * 4));
      job.out_stride = r->rows[j];
      if (r->kernel == 0) continue;
      job.weight.packed = hold(nullptr, format.packed_bytes(r->rows[j], r->k));
      for (int64_t first = 0; first < r->rows[j]; first += 2 * kPackRows) {
        const int64_t left = r->rows[j] - first;
        format.pack({job.weight.stored + first * r->row_bytes, r->row_bytes, first,
                     left < 2 * kPackRows ? left : 2 * kPackRows, r->rows[j], r->k,
                     const_cast<std::byte*>(job.weight.packed)},
                    nullptr);
      }
    }
    check(cudaDeviceSynchronize(), "packing");
    if (r->kernel == 0) {
      kernels.stored[static_cast<size_t>(r->dtype)](task, nullptr);
    } else {
      task.scratch = hold(nullptr, format.scratch_bytes(task));
      (r->kernel == 1 ? format.matvec : format.gemm)(task, nullptr);
    }
    check(cudaDeviceSynchronize(), "multiplying");
    for (int j = 0; j < r->jobs; ++j) {
      check(cudaMemcpy(r->out[j], task.job[j].out, static_cast<size_t>(r->n * r->rows[j]) * 4,
                       cudaMemcpyDeviceToHost),
            "cudaMemcpy");
    }
    std::vector<uint32_t> left(kProductCounters);
    check(cudaMemcpy(left.data(), counters, kProductCounters * 4, cudaMemcpyDeviceToHost),
          "cudaMemcpy");
    if (left != zeros) throw emulation::Fault("counters were left behind");
    return nullptr;
  } catch (const std::exception& error) {
    fault = error.what();
    return fault.c_str();
  }
}
