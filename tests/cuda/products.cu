// Products called from test_products.py: packs a stored matrix on the emulated device and
// multiplies by one of the kernels. Products of q, k and v may go on into a cache.
#include <memory>
#include <string>
#include <vector>

#include "cuda/kernels/attention.cuh"
#include "cuda/kernels/epilogue.cuh"
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
  register_dequantized_matmul(kernels);
  register_matmul(kernels);
  if (wgmma) register_wgmma(kernels);
  return kernels;
}

std::string fault;

}  // namespace
}  // namespace llama_rt::cuda

// A cache that q, k and v are appended to, by the products or by a launch of its own.
struct Append {
  int type, halves, apart;
  int64_t kv_heads, e, page_bytes, page_count, page_stride;
  const int32_t* positions;   // [n]
  const int32_t* segment_of;  // [n]
  const int32_t* first_row;   // [segments + 1]
  const int32_t* pages;       // [segments, page_stride]
  int64_t segments;
  const float* cos;  // [n, e/2]
  const float* sin;
  uint8_t* cache;  // [page_count, kv_heads, head], as it is left
};

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
  const Append* append;  // or null
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
    MatmulTask task;
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
    StoreKvTask append;
    int64_t cache_bytes = 0;
    if (const Append* a = r->append) {
      cache_bytes = a->page_count * a->page_bytes;
      const auto ints = [&](const int32_t* from, int64_t count) {
        return reinterpret_cast<const int32_t*>(hold(from, count * 4));
      };
      append.cache = {hold(a->cache, cache_bytes),
                      a->page_bytes,
                      static_cast<KvType>(a->type),
                      a->kv_heads,
                      a->e,
                      r->n,
                      a->segments,
                      ints(a->positions, r->n),
                      ints(a->segment_of, r->n),
                      ints(a->first_row, a->segments + 1),
                      ints(a->pages, a->segments * a->page_stride),
                      a->page_stride};
      append.cos = reinterpret_cast<float*>(hold(a->cos, r->n * (a->e / 2) * 4));
      append.sin = reinterpret_cast<float*>(hold(a->sin, r->n * (a->e / 2) * 4));
      append.style = a->halves ? RopeStyle::kHalves : RopeStyle::kInterleaved;
      append.q = task.job[0].out, append.k = task.job[1].out, append.v = task.job[2].out;
      append.heads = r->rows[0] / a->e;
      if (!a->apart) {
        if (!can_append(append.cache)) throw emulation::Fault("not a cache for products");
        task.epilogue = Epilogue::kAppend;
        task.append = append;
        for (int j = 0; j < 3; ++j) task.job[j].heads = static_cast<Heads>(j);
      }
    }
    if (r->kernel == 0) {
      kernels.dequantized_matmul[static_cast<size_t>(r->dtype)](task, nullptr);
    } else {
      task.scratch = hold(nullptr, format.scratch_bytes(task));
      (r->kernel == 1 ? format.matvec : format.gemm)(task, nullptr);
    }
    if (r->append && r->append->apart) store_kv(append, nullptr);
    check(cudaDeviceSynchronize(), "multiplying");
    if (r->append) {
      check(cudaMemcpy(r->append->cache, append.cache.base, static_cast<size_t>(cache_bytes),
                       cudaMemcpyDeviceToHost),
            "cudaMemcpy");
    }
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
