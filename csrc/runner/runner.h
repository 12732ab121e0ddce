// One model with a cache and a workspace: forward, step, and the native decode loop.
#pragma once

#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "model/transformer.h"
#include "runner/batch_stager.h"
#include "runner/kv_cache.h"
#include "runner/output_sampler.h"
#include "sampling/sampler.h"

namespace llama_rt {

struct RunnerOptions {
  int64_t n_ctx = 0;  // tokens of the longest sequence
  KvType kv_type = KvType::kF16;
  int64_t max_batch_tokens = 512;  // rows of one forward
  int64_t cache_tokens = 0;        // of all sequences together; 0: one sequence of n_ctx
};

enum class Rows : uint8_t { kNone, kLast, kAll };

struct RunnerMemory {
  int64_t weights;
  int64_t kv_cache;  // committed
  int64_t kv_cache_max;
  int64_t workspace;
};

struct CachePages {
  int64_t used;  // by some sequence; a shared page counts once
  int64_t total;
};

// Every method may be called from any thread; one runs at a time.
class Runner {
 public:
  Runner(std::shared_ptr<const Model> model, const RunnerOptions& options);

  int create();
  int fork(int sequence, int64_t length);
  void truncate(int sequence, int64_t length);
  void release(int sequence);
  int64_t length(int sequence);

  // Appends every input; logits [r, v] or states [r, d] of the rows asked for.
  // All or nothing: after an error or an interrupt every sequence is as before.
  std::vector<float> forward(std::span<const SequenceInput> inputs, Rows rows, bool states,
                             const Interrupt& interrupt);
  // The same, then samples from the last row of each input that has a sampler.
  std::vector<Sampled> step(std::span<const SequenceInput> inputs,
                            std::span<Sampler* const> samplers, const Interrupt& interrupt);
  // Appends its token to each sequence, samples the next, and goes on for at most `steps` steps or
  // `max_seconds`; ends after the step in which any sequence stopped. An interrupt ends it without
  // error: what was sampled before is returned. Where the backend samples, a step is enqueued
  // before the host knows the tokens of the one before, and discarded if one of them ends its
  // sequence.
  std::vector<Sampled> decode(std::span<const SequenceInput> inputs,
                              std::span<Sampler* const> samplers, int64_t steps, double max_seconds,
                              const Interrupt& interrupt);

  RunnerMemory memory();
  CachePages cache_pages();
  std::vector<OpTime> profile(bool enable);

 private:
  StagedStep run(const StepPlan& plan, const Interrupt& interrupt);
  void discard_step(std::span<const SequenceInput> inputs);
  void check(std::span<const SequenceInput> inputs) const;
  void check_decode(std::span<const SequenceInput> inputs,
                    std::span<Sampler* const> samplers) const;

  std::shared_ptr<const Model> model_;
  RunnerOptions options_;
  KvCache cache_;
  Workspace workspace_;
  BatchStager stager_;
  OutputSampler output_;
  std::mutex mutex_;
};

}  // namespace llama_rt
