#include "cuda/graph_cache.h"

#include <algorithm>

#include "cuda/launch.h"

namespace llama_rt::cuda {
namespace {

cudaGraphExec_t capture(cudaStream_t stream, FunctionRef<void()> body) {
  cudaGraph_t graph = nullptr;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "recording a step");
  try {
    body();
  } catch (...) {
    (void)cudaStreamEndCapture(stream, &graph);
    if (graph) (void)cudaGraphDestroy(graph);
    (void)cudaGetLastError();
    throw;
  }
  check(cudaStreamEndCapture(stream, &graph), "recording a step");
  cudaGraphExec_t ready = nullptr;
  const cudaError_t error = cudaGraphInstantiate(&ready, graph, 0);
  (void)cudaGraphDestroy(graph);
  check(error, "preparing a captured step");
  return ready;
}

}  // namespace

void GraphCache::run(const GraphKey& key, cudaStream_t stream, FunctionRef<void()> body) {
  const auto found = std::ranges::find(steps_, key, &Step::key);
  if (found == steps_.end()) {
    // Once as it is: scratch memory grows to what the step needs, which cannot be captured.
    body();
    if (steps_.size() >= kMost) {
      if (steps_.back().graph) (void)cudaGraphExecDestroy(steps_.back().graph);
      steps_.pop_back();
    }
    steps_.push_front({key});
    return;
  }
  steps_.splice(steps_.begin(), steps_, found);
  if (!found->graph) found->graph = capture(stream, body);
  check(cudaGraphLaunch(found->graph, stream), "replaying a step");
}

void GraphCache::clear() {
  for (const Step& step : steps_) {
    if (step.graph) (void)cudaGraphExecDestroy(step.graph);
  }
  steps_.clear();
}

}  // namespace llama_rt::cuda
