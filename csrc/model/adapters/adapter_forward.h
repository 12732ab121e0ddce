// The block ops of a batch in which some rows use adapters: the backend's primitives, with what
// each group of rows adds in between.
#pragma once

#include <span>
#include <vector>

#include "backend/backend.h"
#include "backend/staging.h"
#include "backend/workspace.h"
#include "model/adapters/adapter.h"

namespace llama_rt {

class AdapterForward final : public BlockOps {
 public:
  // `scratch` is this step's own; see scratch_bytes. Takes stage_bytes of `staging`.
  AdapterForward(const Model& model, std::span<const AdapterGroup> groups, Workspace& scratch,
                 Staging& staging);

  void embed(std::span<const int32_t> tokens, View x) override;
  void qkv(int64_t layer, const Rotation& rotation, const KvView& kv,
           const BlockBuffers& b) override;
  void attention(int64_t layer, const KvView& kv, const BlockBuffers& b) override;
  void attention_output(int64_t layer, const BlockBuffers& b) override;
  void gate_up_swiglu(int64_t layer, const BlockBuffers& b) override;
  void ffn_down(int64_t layer, const BlockBuffers& b) override;
  void logits(View states, std::span<const int32_t> outputs, View logits) override;

  // Bytes of scratch for n rows under the adapters of `groups`.
  static size_t scratch_bytes(const ModelConfig& config, int64_t n,
                              std::span<const AdapterGroup> groups);
  static size_t stage_bytes(std::span<const AdapterGroup> groups);

 private:
  // What one active adapter adds to a group's rows of a product: factor B inner + weight bias.
  struct Addition {
    const Weight* b = nullptr;  // null: no LoRA
    float factor = 0.0f;
    View inner;  // A x, [rows, rank]
    const float* bias = nullptr;
    float weight = 0.0f;
    View out;
  };

  void normalise(int64_t layer, Norm norm, const float* gain, View x, View out);
  void linear(int64_t layer, std::span<const Projection> projections, View x,
              std::span<const Linear> jobs);
  void collect(int64_t layer, Projection projection, const AdapterGroup& group, View out);
  void multiply_scaled(int64_t layer, Projection projection, const AdapterGroup& group, View in,
                       View scaled, const Linear& job);
  void add(const Addition& addition);
  void attend_prefix(int64_t layer, View q, View out);
  bool scales_input(int64_t layer, Projection projection) const;

  std::span<const AdapterGroup> groups_;
  std::vector<SegmentTable> tables_;  // of each group's rows in a cache of one page
  Workspace& scratch_;
  std::vector<Linear> products_;  // of the call being put together
  std::vector<Addition> additions_;
};

}  // namespace llama_rt
