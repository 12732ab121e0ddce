// Steps captured as graphs, by key: a step that comes again is one launch.
#pragma once

#include <cuda_runtime.h>

#include <list>

#include "backend/specs.h"
#include "core/function_ref.h"

namespace llama_rt::cuda {

class GraphCache {
 public:
  GraphCache() = default;
  ~GraphCache() { clear(); }
  GraphCache(const GraphCache&) = delete;
  GraphCache& operator=(const GraphCache&) = delete;

  // The first time runs `body`, the second time captures it, from then on replays it.
  void run(const GraphKey& key, cudaStream_t stream, FunctionRef<void()> body);
  // Forgets everything: memory that the launches name has moved.
  void clear();

 private:
  struct Step {
    GraphKey key;
    cudaGraphExec_t graph = nullptr;
  };
  static constexpr size_t kMost = 128;

  std::list<Step> steps_;  // most recently used first
};

}  // namespace llama_rt::cuda
