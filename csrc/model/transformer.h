// The forward pass of LLaMA 1 to 3 and of what shares their graph, readable in one sitting.
#pragma once

#include <memory>
#include <span>

#include "backend/backend.h"
#include "backend/workspace.h"
#include "core/cancel.h"
#include "model/config.h"
#include "model/rope.h"
#include "model/weights.h"

namespace llama_rt {

class AdaptedBlocks;

// [n, heads * e] as [n, heads, e].
inline View heads_of(View flat, int64_t heads, int64_t e) {
  return f32_view(flat.f32(), Shape(flat.shape[0], heads, e));
}

// The buffers of a forward pass that a block works in, [n, ...] each; x is the residual stream.
struct BlockBuffers {
  View x, normed, q, k, v, attended, hidden, up;
};

// A batch in the form that ops take: n rows, grouped by sequence.
struct StagedBatch {
  View tokens;        // i32 [n]
  Rotation rotation;  // of each row's position
  std::span<const Segment> segments;
  SegmentTable table;
  View outputs;                      // i32 [r], rows wanted, ascending
  AdaptedBlocks* adapted = nullptr;  // runs the blocks when some rows use adapters
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
  // Logits [r, v] of states [r, d].
  void project(View states, View logits) const;

  // Bytes that forward needs for a batch of n rows.
  size_t workspace_bytes(int64_t n) const;

  // Of this model's self-attention: heads, 1/sqrt(e), window.
  AttentionSpec attention_spec() const;

  const ModelConfig& config() const { return config_; }
  const RopeTable& rope() const { return *rope_; }
  const Weights& weights() const { return weights_; }
  Backend& backend() const { return *backend_; }
  const std::shared_ptr<Backend>& shared_backend() const { return backend_; }

 private:
  BlockBuffers buffers(Workspace& workspace, int64_t n) const;
  void block(int64_t layer, const Rotation& rotation, const KvView& kv,
             const BlockBuffers& buffers) const;

  std::shared_ptr<Backend> backend_;
  ModelConfig config_;
  Weights weights_;
  std::unique_ptr<RopeTable> rope_;  // made when the divisors, if any, are known
};

}  // namespace llama_rt
