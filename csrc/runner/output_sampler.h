// What a step left of its output rows becomes host values: floats, or one sampled token of each
// row, sampled on the backend where it can and no sampler needs the host, else here.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "runner/batch_stager.h"
#include "sampling/sampler.h"

namespace llama_rt {

// What one sequence gained: tokens in order, log-probabilities where its sampler asks for them.
struct Sampled {
  std::vector<int32_t> tokens;
  bool stopped = false;
  std::string failure;  // why the sampler could not go on; empty: it could
  std::vector<float> logprobs;
  std::vector<std::vector<std::pair<int32_t, float>>> top_logprobs;
};

class OutputSampler {
 public:
  OutputSampler(Backend& backend, int64_t max_rows) : backend_(backend), max_rows_(max_rows) {}

  // Decides where the rows of `plan` are sampled: sets its output kind and specs, to those of the
  // next tokens or of those `lookahead` tokens later. Samplers may be null.
  void plan(StepPlan& plan, std::span<Sampler* const> samplers, uint64_t lookahead = 0) const;
  // Starts to copy the tokens that the backend sampled to the host; steps queued after this one
  // need not be waited for.
  void start_readback(const StagedStep& step);
  // Samples for each sampler from its own row of the logits, or takes what the backend sampled.
  // One that cannot (its logits are all NaN, say) fails alone.
  void sample(const StagedStep& step, std::span<Sampler* const> samplers,
              std::span<Sampled> sampled);
  // Floats of a view in the backend's memory.
  std::vector<float> read(View view) const;

 private:
  Backend& backend_;
  int64_t max_rows_;
  std::unique_ptr<ReadbackBuffer> readback_;  // made when tokens are first sampled by the backend
};

}  // namespace llama_rt
