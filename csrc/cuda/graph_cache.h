// Steps recorded as graphs, by key: a step that comes again is one launch.
#pragma once

#include <cuda_runtime.h>

#include <list>

#include "backend/specs.h"
#include "core/function_ref.h"

namespace llama_rt::cuda {

class RecordedSteps {
 public:
  RecordedSteps() = default;
  ~RecordedSteps() { clear(); }
  RecordedSteps(const RecordedSteps&) = delete;
  RecordedSteps& operator=(const RecordedSteps&) = delete;

  // The first time runs `body`, the second time records it, from then on replays it.
  void run(const StepKey& key, cudaStream_t stream, FunctionRef<void()> body);
  // Forgets everything: memory that the launches name has moved.
  void clear();

 private:
  struct Step {
    StepKey key;
    cudaGraphExec_t graph = nullptr;
  };
  static constexpr size_t kMost = 128;

  std::list<Step> steps_;  // most recently used first
};

}  // namespace llama_rt::cuda
