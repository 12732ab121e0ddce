// A block of the forward pass for a batch in which some rows use adapters: the primitives of the
// plain pass, with each group's additions in between.
#pragma once

#include <span>

#include "backend/backend.h"
#include "backend/workspace.h"
#include "model/adapters/adapter.h"

namespace llama_rt {

class AdaptedBlocks {
 public:
  // `scratch` is this step's own; see scratch_bytes.
  AdaptedBlocks(const Model& model, std::span<const AdapterGroup> groups, Workspace& scratch);

  void run(int64_t layer, const Rotation& rotation, const KvView& kv, const BlockBuffers& buffers);

  // Bytes of scratch for n rows under adapters of at most `rank`.
  static size_t scratch_bytes(const ModelConfig& config, int64_t n, int64_t rank);

 private:
  void normalise(int64_t layer, Norm norm, const float* gain, View x, View out);
  void linear(int64_t layer, std::span<const Slot> slots, View x, std::span<const Linear> jobs);
  void patch(const LinearPatch& patch, float weight, View x, View y);
  void attend_prefix(int64_t layer, View q, View out);
  bool scales_input(int64_t layer, Slot slot) const;

  const Model& model_;
  Backend& backend_;
  std::span<const AdapterGroup> groups_;
  Workspace& scratch_;
};

}  // namespace llama_rt
