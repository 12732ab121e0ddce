// The forward pass of a batch in which some rows use adapters, piece by piece: the primitives of
// the plain pass, with each group's additions in between.
#pragma once

#include <span>
#include <vector>

#include "backend/backend.h"
#include "backend/staging.h"
#include "backend/workspace.h"
#include "model/adapters/adapter.h"

namespace llama_rt {

class AdaptedBlocks {
 public:
  // `scratch` is this step's own; see scratch_bytes. Takes stage_bytes of `staging`.
  AdaptedBlocks(const Model& model, std::span<const AdapterGroup> groups, Workspace& scratch,
                Staging& staging);

  // What is added to embedded tokens, x [n, d].
  void embed(View tokens, View x);
  void run(int64_t layer, const Rotation& rotation, const KvView& kv, const BlockBuffers& buffers);
  // What is added to the logits [r, v] of the rows `outputs`, ascending; states [r, d].
  void project(View states, std::span<const int32_t> outputs, View logits);

  // Bytes of scratch for n rows under the mixes of `groups`.
  static size_t scratch_bytes(const ModelConfig& config, int64_t n,
                              std::span<const AdapterGroup> groups);
  static size_t stage_bytes(std::span<const AdapterGroup> groups);

 private:
  // What one adapter of a mix adds to a group's rows of a product: factor B inner + weight bias.
  struct Addition {
    const Weight* b = nullptr;  // null: no LoRA
    float factor = 0.0f;
    View inner;  // A x, [rows, rank]
    const float* bias = nullptr;
    float weight = 0.0f;
    View out;
  };

  void normalise(int64_t layer, Norm norm, const float* gain, View x, View out);
  void linear(int64_t layer, std::span<const Slot> slots, View x, std::span<const Linear> jobs);
  void collect(int64_t layer, Slot slot, const AdapterGroup& group, View out);
  void multiply_scaled(int64_t layer, Slot slot, const AdapterGroup& group, View in, View scaled,
                       const Linear& job);
  void add(const Addition& addition);
  void attend_prefix(int64_t layer, View q, View out);
  bool scales_input(int64_t layer, Slot slot) const;

  const Model& model_;
  Backend& backend_;
  std::span<const AdapterGroup> groups_;
  std::vector<SegmentTable> tables_;  // of each group's rows in a cache of one page
  Workspace& scratch_;
  std::vector<Linear> products_;  // of the call being put together
  std::vector<Addition> additions_;
};

}  // namespace llama_rt
