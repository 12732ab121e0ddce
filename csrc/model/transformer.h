// The forward pass of LLaMA 1 to 3 and of what shares their graph, readable in one sitting.
#pragma once

#include <memory>
#include <span>

#include "backend/backend.h"
#include "backend/workspace.h"
#include "core/cancel.h"
#include "model/block_ops.h"
#include "model/config.h"
#include "model/rope.h"
#include "model/weights.h"

namespace llama_rt {

// A batch in the form that ops take: n rows, grouped by sequence.
struct StagedBatch {
  std::span<const int32_t> tokens;  // [n], in the backend's memory
  Rotation rotation;                // of each row's position
  std::span<const Segment> segments;
  SegmentTable table;
  std::span<const int32_t> outputs;       // [r], rows wanted, ascending, in the backend's memory
  std::span<const int32_t> host_outputs;  // the same for the host
  BlockOps* adapter_ops = nullptr;        // run the blocks when some rows use adapters
};

// Immutable once finished; may be shared by runners.
class Model {
 public:
  Model(std::shared_ptr<Backend> backend, const ModelConfig& config, Repack repack);

  void add(const std::string& name, const Tensor& tensor) { weights_.add(name, tensor); }
  void add_pieces(const std::string& name, Shape shape, const Tensor& pool,
                  std::span<const int64_t> starts) {
    weights_.add_pieces(name, shape, pool, starts);
  }
  void finish();
  void require_finished() const;

  // Final states after the last norm of the wanted rows, [r, d]. The interrupt is seen between
  // layers; then the workspace and the new cache slots hold nothing of meaning.
  void forward(const StagedBatch& batch, Workspace& workspace, const KvLayout& layout,
               std::byte* cache, const Interrupt& interrupt, View states) const;
  // Logits [r, v] of states [r, d] that forward gave for the same batch.
  void logits(const StagedBatch& batch, View states, View logits) const;

  // Bytes that forward needs for a batch of n rows.
  size_t workspace_bytes(int64_t n) const;

  const ModelConfig& config() const { return config_; }
  const RopeTable& rope() const { return *rope_; }
  const Weights& weights() const { return weights_; }
  Backend& backend() const { return *backend_; }
  const std::shared_ptr<Backend>& shared_backend() const { return backend_; }

 private:
  BlockBuffers buffers(Workspace& workspace, int64_t n) const;

  std::shared_ptr<Backend> backend_;
  ModelConfig config_;
  Weights weights_;
  std::unique_ptr<RopeTable> rope_;  // made when the divisors, if any, are known
};

}  // namespace llama_rt
