// A CUDA device as a backend: op list -> launches on one stream. Arithmetic lives in kernels/;
// which matmuls share a launch is decided in matmul.cpp.
#pragma once

#include <cuda_runtime.h>

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "cuda/cuda_device.h"
#include "cuda/graph_cache.h"
#include "cuda/kernel_table.h"
#include "cuda/memory.h"

namespace llama_rt::cuda {

// A matrix in the layout that ProductFormat::pack made.
struct RepackedWeight final : PackedWeight {
  std::shared_ptr<Storage> storage;
  int64_t bytes() const override { return static_cast<int64_t>(storage->bytes()); }
};

class CudaBackend final : public Backend {
 public:
  CudaBackend(int index, const CudaDevice& device, bool reproducible);
  ~CudaBackend() override;
  CudaBackend(const CudaBackend&) = delete;
  CudaBackend& operator=(const CudaBackend&) = delete;

  std::string name() const override { return name_; }
  std::string isa() const override { return std::string(sm_arch_name(kernels_.arch)); }
  int threads() const override { return 1; }

  std::shared_ptr<Storage> allocate(size_t bytes) override;
  bool host_memory() const override { return false; }
  void copy_bytes(std::byte* to, const std::byte* from, size_t bytes) override;
  void upload(std::byte* to, const void* from, size_t bytes) override;
  void download(void* to, const std::byte* from, size_t bytes) override;
  Weight reuse_resident(const Weight& table, Role role, Repack repack) override;
  KvLayout kv_layout(KvType type, int64_t layers, int64_t kv_heads,
                     int64_t head_dim) const override;
  using Backend::step;
  void step(const GraphKey& key, const CancelFlag* cancel, FunctionRef<void()> body) override;
  bool samples() const override { return true; }
  void sample(View logits, const SampleSpec* specs, int32_t* tokens) override;
  std::unique_ptr<ReadbackBuffer> make_readback_buffer(size_t bytes) override;
  void start_readback(ReadbackBuffer& buffer, const std::byte* from, size_t bytes) override;
  void finish_readback(ReadbackBuffer& buffer, void* to, size_t bytes) override;

  void qkv(View x, const QkvWeights& weights, float eps, const Rotation& rotation, const KvView& kv,
           View scratch, View q, View k, View v) override;
  void gate_up_swiglu(View x, const GateUpWeights& weights, float eps, View scratch, View up,
                      View hidden) override;

 protected:
  Weight do_prepare(const Tensor& matrix, Role role, Repack repack) override;
  void do_embed(const Weight& table, std::span<const int32_t> tokens, View out) override;
  void do_rms_norm(View x, const float* gain, float eps, View out) override;
  void do_matmul(View x, std::span<const Linear> jobs) override;
  void do_rope(View x, const Rotation& rotation) override;
  void do_store_kv(View k, View v, const KvView& kv) override;
  void do_attention(View q, const KvView& kv, const AttentionSpec& spec, View out) override;
  void do_swiglu(View gate, View up, View out) override;
  void do_gather_rows(View x, std::span<const int32_t> rows, View out) override;
  void do_scale_columns(View x, const float* factors, View out) override;
  void do_scale(View x, float factor) override;
  void do_add_row(const float* row, float factor, View y) override;
  void do_add_gated(View x, const float* gates, float factor, View out) override;
  void synchronize() noexcept override;

 private:
  // One caller at a time, whose thread is on this device meanwhile.
  class Lock {
   public:
    explicit Lock(CudaBackend& backend);

   private:
    std::scoped_lock<std::mutex> lock_;
  };

  void multiply(const MatmulTask& task);
  void multiply_groups(View x, std::span<const Linear> jobs, const float* gain, float eps,
                       const StoreKvTask* append = nullptr);
  bool append_in_products(std::span<const Linear> jobs, const CacheTask& cache) const;
  bool packs(DType dtype, int64_t rows, int64_t cols, Role role, Repack repack) const;
  std::byte* scratch(int64_t bytes);

  int index_;
  std::string name_;
  CudaDevice device_;
  bool reproducible_;
  const Kernels& kernels_;
  std::mutex mutex_;
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<Transfer> transfer_;
  std::shared_ptr<Storage> scratch_, counters_;
  std::shared_ptr<Storage> piece_;  // of a weight on its way to the packed form
  bool packing_ = false;            // weights may still be on their way there
  GraphCache graphs_;
};

}  // namespace llama_rt::cuda
