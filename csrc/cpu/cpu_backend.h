// The CPU as a backend: op list -> split work -> kernel table. Arithmetic lives in ISA levels/;
// which kernel, which split and which weight layout in matmul.cpp, attention.cpp and repack.cpp.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "cpu/isa.h"
#include "cpu/kernel_table.h"
#include "platform/memory.h"

namespace llama_rt::cpu {

// A matrix in panels of 16 rows (see kernel_table.h).
struct PanelWeight final : PackedWeight {
  std::shared_ptr<Storage> storage;
  int64_t panel_bytes = 0;
  int64_t panels = 0;
  int64_t bytes() const override { return panel_bytes * panels; }
};

// Per-thread and shared scratch that grows to the largest need and stays.
class Scratch {
 public:
  std::byte* get(size_t bytes);

 private:
  std::shared_ptr<Storage> storage_;
};

class CpuBackend final : public Backend {
 public:
  CpuBackend(Isa isa, int threads, bool reproducible);

  std::string name() const override { return "cpu"; }
  std::string isa() const override { return std::string(isa_name(kernels_.isa)); }
  int threads() const override { return threads_; }

  std::shared_ptr<Storage> allocate(size_t bytes) override;
  bool host_memory() const override { return true; }
  void copy_bytes(std::byte* to, const std::byte* from, size_t bytes) override;
  void upload(std::byte* to, const void* from, size_t bytes) override;
  void download(void* to, const std::byte* from, size_t bytes) override;
  KvLayout kv_layout(KvType type, int64_t layers, int64_t kv_heads,
                     int64_t head_dim) const override;
  using Backend::step;
  void step(const GraphKey& key, const CancelFlag* cancel, FunctionRef<void()> body) override;

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

 private:
  // A kernel for packed weights, chosen by the number of inputs.
  struct MatmulKernel {
    void (*multiply)(const PackedMatmulTask& task) noexcept;
    Activation activation;
    int64_t scratch_bytes;
    int64_t panels;  // of a call
  };
  MatmulKernel kernel_of(const Linear& job, int64_t n) const;
  const std::byte* convert(View x, Activation activation);
  void matmul_packed(const View& x, std::span<const Linear> jobs);
  void matmul_dequantized(const View& x, std::span<const Linear> jobs);

  const Kernels& kernels_;
  int threads_;
  bool reproducible_;
  HostArena panels_;  // packed weights of several megabytes and more
  std::mutex mutex_;  // scratch below serves one step at a time
  std::array<Scratch, kActivations> converted_;
  Scratch partial_;              // attention: states of every range
  std::vector<Scratch> worker_;  // one per thread
};

// A backend on ISA level `isa` ("" for the best) with `threads` (0 for the default).
// `reproducible`: a token's bits do not depend on what it is computed with, so the kernels do not
// either.
std::shared_ptr<Backend> open_cpu(const std::string& isa, int threads, bool reproducible);

}  // namespace llama_rt::cpu
