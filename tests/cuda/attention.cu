// Fills a paged cache and attends over it, arrays in, arrays out; loaded by test_cuda_attention.py.
#include <cstring>
#include <string>
#include <vector>

#include "cuda/kernels/attention.cuh"
#include "cuda/launch.h"
#include "execution.h"

namespace llama_rt::cuda {
namespace {

// A copy of host values on the device, freed with the object.
template <class T>
class OnDevice {
 public:
  OnDevice(const T* from, size_t count) : bytes_(count * sizeof(T)) {
    cudaMalloc(&data_, bytes_);
    if (from) cudaMemcpy(data_, from, bytes_, cudaMemcpyHostToDevice);
  }
  ~OnDevice() { cudaFree(data_); }
  OnDevice(const OnDevice&) = delete;
  T* get() const { return data_; }
  void zero() { cudaMemset(data_, 0, bytes_); }
  void read(T* to) const { cudaMemcpy(to, data_, bytes_, cudaMemcpyDeviceToHost); }

 private:
  T* data_ = nullptr;
  size_t bytes_;
};

}  // namespace

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) {
    throw emulation::Fault(std::string(what) + ": " + cudaGetErrorString(error));
  }
}
static bool overlap = true;
void allow_overlap(bool allowed) { overlap = allowed; }
bool overlap_allowed() { return overlap; }

}  // namespace llama_rt::cuda

using namespace llama_rt;
using namespace llama_rt::cuda;

extern "C" {

// Rows of a batch: positions and sequences [n], first rows [segments + 1], pages [segments,
// stride].
struct Rows {
  int64_t n, segments, page_stride;
  const int32_t *positions, *segment_of, *first_row, *pages;
};
struct Call {
  int32_t type;
  int64_t heads, kv_heads, e, page_count;
  float scale;
  int64_t window, length, multiprocessors, max_rows, max_context;
  int32_t reproducible, descending;
  const float *cos, *sin;  // of the stored rows, or null
  int32_t halves, hopper;
};

const char* attend(const Call* call, const Rows* stored, const float* k, const float* v,
                   const Rows* asked, float* q, float* out) {
  static std::string text;
  emulation::set_order(call->descending ? emulation::Order::kDescending
                                        : emulation::Order::kAscending);
  try {
    int major = 0;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
    allow_overlap(major >= 9);
    const auto type = static_cast<KvType>(call->type);
    const int64_t page_bytes = call->kv_heads * kv_head_bytes(type, call->e);
    OnDevice<std::byte> cache(nullptr, static_cast<size_t>(call->page_count * page_bytes));
    cudaMemset(cache.get(), 0xff, static_cast<size_t>(call->page_count * page_bytes));
    const auto batch = [&](const Rows& r, auto run) {
      const auto n = static_cast<size_t>(r.n), s = static_cast<size_t>(r.segments);
      const OnDevice<int32_t> positions(r.positions, n), segment_of(r.segment_of, n);
      const OnDevice<int32_t> first_row(r.first_row, s + 1);
      const OnDevice<int32_t> pages(r.pages, s * static_cast<size_t>(r.page_stride));
      run(CacheTask{cache.get(), page_bytes, type, call->kv_heads, call->e, r.n, r.segments,
                    positions.get(), segment_of.get(), first_row.get(), pages.get(),
                    r.page_stride});
      check(cudaDeviceSynchronize(), "running");
    };
    Kernels kernels;
    register_attention(kernels);
    if (call->hopper) register_attention_wgmma(kernels);
    batch(*stored, [&](const CacheTask& task) {
      const auto size = static_cast<size_t>(stored->n * call->kv_heads * call->e);
      const auto angles = call->cos ? static_cast<size_t>(stored->n * (call->e / 2)) : 1;
      const OnDevice<float> keys(k, size), values(v, size);
      const OnDevice<float> cos(call->cos, angles), sin(call->sin, angles);
      const auto style = call->halves ? RopeStyle::kHalves : RopeStyle::kInterleaved;
      // With rotation the queries are those of the stored rows.
      const auto queries = static_cast<size_t>(stored->n * call->heads * call->e);
      const OnDevice<float> turned(call->cos ? q : nullptr, call->cos ? queries : 1);
      kernels.store_kv(
          {task, keys.get(), values.get(), call->cos ? turned.get() : nullptr, call->heads,
           call->cos ? cos.get() : nullptr, call->cos ? sin.get() : nullptr, style},
          nullptr);
      check(cudaDeviceSynchronize(), "storing");
      if (call->cos) turned.read(q);
    });
    batch(*asked, [&](const CacheTask& task) {
      const auto size = static_cast<size_t>(asked->n * call->heads * call->e);
      const OnDevice<float> queries(q, size), result(nullptr, size);
      AttentionTask t{task,
                      queries.get(),
                      result.get(),
                      call->heads,
                      call->scale,
                      call->window,
                      call->length,
                      call->max_rows,
                      call->max_context,
                      static_cast<int>(call->multiprocessors),
                      call->reproducible != 0};
      const OnDevice<std::byte> scratch(nullptr, static_cast<size_t>(attention_scratch_bytes(t)));
      OnDevice<uint32_t> counters(nullptr, static_cast<size_t>(attention_counters(t)));
      counters.zero();
      t.scratch = scratch.get(), t.counters = counters.get();
      kernels.attention(t, nullptr);
      check(cudaDeviceSynchronize(), "attending");
      result.read(out);
      std::vector<uint32_t> left(static_cast<size_t>(attention_counters(t)));
      counters.read(left.data());
      for (const uint32_t c : left) {
        if (c != 0) throw emulation::Fault("a counter was left at " + std::to_string(c));
      }
    });
    return nullptr;
  } catch (const std::exception& error) {
    text = error.what();
    return text.c_str();
  }
}
}
