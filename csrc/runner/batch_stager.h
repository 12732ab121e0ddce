// One forward pass as data: what a step is given becomes arrays in the backend's memory, at
// addresses that stay the same from step to step, so that a captured step can be replayed.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "backend/staging.h"
#include "model/adapters/adapter.h"
#include "model/adapters/adapter_forward.h"
#include "model/transformer.h"
#include "runner/kv_cache.h"

namespace llama_rt {

// Tokens to append to one sequence, and the adapters that its rows use.
struct SequenceInput {
  int sequence;
  std::span<const int32_t> tokens;
  std::vector<ActiveAdapter> adapters = {};
};

enum class TokenSource : uint8_t {
  kInput,    // the tokens of the inputs
  kSampled,  // those that the step before sampled, where the backend left them
};

enum class OutputKind : uint8_t { kStates, kLogits, kTokens };

// What one forward pass computes.
struct StepPlan {
  std::span<const SequenceInput> inputs;
  TokenSource source = TokenSource::kInput;
  OutputKind output = OutputKind::kLogits;
  std::vector<int32_t> output_rows;  // of the batch, ascending
  std::vector<SampleSpec> specs;     // of each of them, for kTokens
};

// A staged pass. Its arrays are valid until the next one is staged, its `batch` as long as the plan
// as well.
struct StagedStep {
  StagedBatch batch;
  OutputKind output = OutputKind::kLogits;
  View states;                // [r, d]
  View logits;                // [r, v]; not for kStates
  int32_t* tokens = nullptr;  // [r]; for kTokens
  const SampleSpec* specs = nullptr;
};

class BatchStager {
 public:
  BatchStager(const Model& model, int64_t max_batch_tokens);

  // Writes the batch where ops read it, and sends it. The cache has room for its tokens.
  StagedStep stage(const StepPlan& plan, const KvCache& cache);
  // Equal for steps that make the same calls; empty if the step is not worth capturing.
  GraphKey graph_key(const StagedStep& step, const StepPlan& plan) const;

 private:
  struct Segments {
    std::vector<Segment> of_sequence;
    std::vector<int32_t> positions;  // of each row
    size_t max_pages = 8;
  };
  Segments segments_of(std::span<const SequenceInput> inputs, const KvCache& cache) const;
  bool group_adapters(std::span<const SequenceInput> inputs);
  View ensure_capacity(std::shared_ptr<Storage>& buffer, Shape shape);

  const Model& model_;
  int64_t max_batch_tokens_;
  Staging staging_;
  std::shared_ptr<Storage> states_, logits_, tokens_;
  uint64_t owner_;                  // of captured steps: this stager
  uint64_t buffer_generation_ = 0;  // counts moves of the output buffers, which void captured steps
  std::vector<AdapterGroup> groups_;
  std::unique_ptr<Workspace> adapter_scratch_;  // made when a batch first needs it
  std::optional<AdapterForward> adapter_forward_;
  std::vector<Segment> segments_;
};

}  // namespace llama_rt
