// The contract between the model and a device. Public methods check their arguments once for all
// backends, then call the backend's do_* methods, which check nothing.
//
// The primitives are the porting guide: every backend has them, each testable alone. The composites
// default to primitives in order; a backend overrides one when it can do it in fewer passes.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/specs.h"
#include "core/cancel.h"
#include "core/function_ref.h"
#include "core/tensor.h"

namespace llama_rt {

// Seconds spent in one kind of op since measuring was switched on.
struct OpTime {
  const char* op;
  double seconds;
};

struct QkvWeights {
  const float* norm = nullptr;  // [d]
  Weight q, k, v;
  const float* q_bias = nullptr;
  const float* k_bias = nullptr;
  const float* v_bias = nullptr;
  const float* q_norm = nullptr;  // [e]: gain of an RMS norm of each head before rotation, or null
  const float* k_norm = nullptr;
};

struct GateUpWeights {
  const float* norm = nullptr;  // [d]
  Weight gate, up;
  const float* gate_bias = nullptr;
  const float* up_bias = nullptr;
};

// Rotation of each row of a batch: cosines and sines [n, e/2] f32.
struct Rotation {
  View cos;
  View sin;
  RopeStyle style = RopeStyle::kInterleaved;
};

// Pinned host memory that a backend copies to asynchronously; opaque outside the backend.
struct ReadbackBuffer {
  virtual ~ReadbackBuffer() = default;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string name() const = 0;  // "cpu", "cuda:0"
  virtual std::string isa() const = 0;   // the ISA level in use
  virtual int threads() const = 0;

  // The backend's memory: whatever an op reads or writes is in it, all but tensors to prepare.
  // Committed as it is touched; throws std::bad_alloc.
  virtual std::shared_ptr<Storage> allocate(size_t bytes) = 0;
  // Whether the host can read and write that memory in place.
  virtual bool host_memory() const = 0;
  virtual void copy_bytes(std::byte* to, const std::byte* from, size_t bytes) = 0;
  // From the host, which may use its bytes again at once; ops that follow see them.
  virtual void upload(std::byte* to, const void* from, size_t bytes) = 0;
  // To the host, after all ops before it.
  virtual void download(void* to, const std::byte* from, size_t bytes) = 0;
  // A copy of host floats in the backend's memory.
  Vector to_device(std::span<const float> values);

  // Claims a matrix [rows, cols] of host memory.
  Weight prepare(const Tensor& matrix, Role role, Repack repack);
  // The same for a matrix that is in the backend's memory as stored: one that was claimed as a
  // table, or was made there.
  virtual Weight reuse_resident(const Weight& table, Role role, Repack repack);

  // The cache's geometry on this backend for a model's sizes.
  virtual KvLayout kv_layout(KvType type, int64_t layers, int64_t kv_heads,
                             int64_t head_dim) const = 0;

  // Runs `body`, which calls ops only; workers stay awake between them. With a key the backend may
  // replay what it recorded under it instead, and not call `body`. Once `cancel` (which may be
  // null) is set its ops may be left unfinished: the caller looks at it afterwards and discards the
  // step.
  virtual void step(const GraphKey& key, const CancelFlag* cancel, FunctionRef<void()> body) = 0;
  void step(FunctionRef<void()> body) { step(GraphKey{}, nullptr, body); }

  // Primitives. All activations are float32, [n, ...], rows contiguous. Token ids are trusted.
  void embed(const Weight& table, std::span<const int32_t> tokens, View out);     // [n] -> [n, d]
  void rms_norm(View x, const float* gain, float eps, View out);                  // [n, d]
  void matmul(View x, std::span<const Linear> jobs);                              // [n, k]
  void rope(View x, const Rotation& rotation);                                    // [n, heads, e]
  void store_kv(View k, View v, const KvView& kv);                                // [n, g, e]
  void attention(View q, const KvView& kv, const AttentionSpec& spec, View out);  // [n, h, e]
  void swiglu(View gate, View up, View out);                                      // [n, f]
  // out[i] = x[rows[i]]; rows [r]
  void gather_rows(View x, std::span<const int32_t> rows, View out);

  // Draws a token from each row of logits [r, v]; specs and tokens [r] in the backend's memory. A
  // token is -1 where none can be drawn; embedding it gives any row. Only where `samples`.
  virtual bool samples() const { return false; }
  virtual void sample(View logits, const SampleSpec* specs, int32_t* tokens);
  // A download in two parts, so that ops can be queued between them: the first returns at once, the
  // second waits for the ops before the first. A buffer holds one copy at a time. Where `samples`.
  virtual std::unique_ptr<ReadbackBuffer> make_readback_buffer(size_t bytes);
  virtual void start_readback(ReadbackBuffer& buffer, const std::byte* from, size_t bytes);
  virtual void finish_readback(ReadbackBuffer& buffer, void* to, size_t bytes);

  // Primitives of adapters.
  void scale_columns(View x, const float* factors, View out);          // [n, k] * [k]
  void scale(View x, float factor);                                    // in place
  void add_row(const float* row, float factor, View y);                // y += factor row
  void add_gated(View x, const float* gates, float factor, View out);  // [n, h, e], [h]

  // Composites.
  // Heads of q and k normed (where the weights say so) and rotated; k and v appended to the cache.
  void norm_rope_append(View q, View k, View v, const QkvWeights& weights, float eps,
                        const Rotation& rotation, const KvView& kv);
  virtual void qkv(View x, const QkvWeights& weights, float eps, const Rotation& rotation,
                   const KvView& kv, View scratch, View q, View k, View v);
  virtual void gate_up_swiglu(View x, const GateUpWeights& weights, float eps, View scratch,
                              View up, View hidden);
  virtual void linear_residual(View x, const Weight& weight, const float* bias, View residual);

  // Measuring per primitive, for `bench --profile`; taking it resets it.
  void set_profiling(bool enable) { profiling_ = enable; }
  std::vector<OpTime> take_profile();

 protected:
  virtual Weight do_prepare(const Tensor& matrix, Role role, Repack repack) = 0;
  virtual void do_embed(const Weight& table, std::span<const int32_t> tokens, View out) = 0;
  virtual void do_rms_norm(View x, const float* gain, float eps, View out) = 0;
  virtual void do_matmul(View x, std::span<const Linear> jobs) = 0;
  virtual void do_rope(View x, const Rotation& rotation) = 0;
  virtual void do_store_kv(View k, View v, const KvView& kv) = 0;
  virtual void do_attention(View q, const KvView& kv, const AttentionSpec& spec, View out) = 0;
  virtual void do_swiglu(View gate, View up, View out) = 0;
  virtual void do_gather_rows(View x, std::span<const int32_t> rows, View out) = 0;
  virtual void do_scale_columns(View x, const float* factors, View out) = 0;
  virtual void do_scale(View x, float factor) = 0;
  virtual void do_add_row(const float* row, float factor, View y) = 0;
  virtual void do_add_gated(View x, const float* gates, float factor, View out) = 0;

  bool profiling() const { return profiling_; }
  // While profiling: returns when all ops so far are done.
  virtual void synchronize() noexcept {}

 private:
  enum Op { kEmbed, kNorm, kMatmul, kRope, kStoreKv, kAttention, kSwiglu, kAdapt, kOps };
  class Timer;

  bool profiling_ = false;
  std::array<double, kOps> seconds_{};
};

}  // namespace llama_rt
