// One model with a cache and a workspace: forward, sample, and the native token loop.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/staging.h"
#include "model/adapters/adapted.h"
#include "model/adapters/adapter.h"
#include "model/transformer.h"
#include "runner/kv_cache.h"
#include "sampling/sampler.h"

namespace llama_rt {

struct RunnerOptions {
  int64_t n_ctx = 0;  // tokens of the longest sequence
  KvType kv_type = KvType::kF16;
  int64_t max_batch_tokens = 512;  // rows of one forward
  int64_t cache_tokens = 0;        // of all sequences together; 0: one sequence of n_ctx
};

// Tokens to append to one sequence, and the adapters its rows use.
struct Feed {
  int sequence;
  std::span<const int32_t> tokens;
  std::vector<AdapterMix> mix = {};
};

enum class Rows : uint8_t { kNone, kLast, kAll };

// What one sequence gained: tokens in order, log-probabilities where its sampler asks for them.
struct Sampled {
  std::vector<int32_t> tokens;
  bool stopped = false;
  std::string failure;  // why the sampler could not draw on; empty: it could
  std::vector<float> logprobs;
  std::vector<std::vector<std::pair<int32_t, float>>> top_logprobs;
};

struct RunnerMemory {
  int64_t weights;
  int64_t kv_cache;  // committed
  int64_t kv_cache_max;
  int64_t workspace;
};

// Callers take turns: every method may be called from any thread.
class Runner {
 public:
  Runner(std::shared_ptr<const Model> model, const RunnerOptions& options);

  int create();
  int fork(int sequence, int64_t length);
  void truncate(int sequence, int64_t length);
  void release(int sequence);
  int64_t length(int sequence);

  // Appends every feed; logits [r, v] or states [r, d] of the rows asked for, copied to `out`.
  // All or nothing: after an error or an interrupt every sequence is as before.
  std::vector<float> forward(std::span<const Feed> feeds, Rows rows, bool states,
                             const Interrupt& interrupt);
  // The same, then draws from the last row of each feed that has a sampler.
  std::vector<Sampled> step(std::span<const Feed> feeds, std::span<Sampler* const> samplers,
                            const Interrupt& interrupt);
  // Feeds each sequence its token, draws the next, and goes on for at most `steps` rounds or
  // `max_seconds`; ends after the round in which any sequence stopped. An interrupt ends it without
  // error: what was drawn before is returned. Where the backend draws, a round is queued before the
  // tokens of the one before are known to the host, and taken back if they end the text.
  std::vector<Sampled> decode(std::span<const Feed> feeds, std::span<Sampler* const> samplers,
                              int64_t steps, double max_seconds, const Interrupt& interrupt);

  RunnerMemory memory();
  std::vector<OpTime> profile(bool enable);

 private:
  // What a pass leaves of the wanted rows.
  enum class Last : uint8_t { kStates, kLogits, kTokens };

  // The buffers of one pass, in the backend's memory.
  struct Pass {
    StagedBatch batch;
    View states;  // [r, d]
    View logits;  // [r, v]
    const SampleSpec* specs = nullptr;
  };

  // Where a pass takes its tokens from.
  enum class From : uint8_t { kFeeds, kDraw };  // kDraw: where the pass before left them

  void run(std::span<const Feed> feeds, From from, Last last, const Interrupt& interrupt);
  void take_back();
  Pass stage(std::span<const Feed> feeds, From from, Last last,
             std::optional<AdaptedBlocks>& adapted);
  StepKey key_of(const Pass& pass, From from, Last last) const;
  View grown(std::shared_ptr<Storage>& storage, Shape shape);
  Last plan_draw(std::span<Sampler* const> samplers, uint64_t ahead = 0);
  void bring(Last last);
  void check(std::span<const Feed> feeds) const;
  void check_decode(std::span<const Feed> feeds, std::span<Sampler* const> samplers) const;
  bool stage_adapters(std::span<const Feed> feeds);
  void draw(Last last, std::span<Sampler* const> samplers, std::span<Sampled> sampled);
  std::vector<float> fetch(const Storage& storage, size_t count);

  std::shared_ptr<const Model> model_;
  RunnerOptions options_;
  KvCache cache_;
  Workspace workspace_;
  std::mutex turn_;

  // Staging and results, reused from step to step.
  Staging staging_;
  std::shared_ptr<Storage> states_, logits_, tokens_;
  std::unique_ptr<Landing> landing_;  // of tokens; made when some are first drawn by the backend
  uint64_t owner_;                    // of recorded steps
  uint64_t moves_ = 0;                // of the results, each making recorded steps useless
  std::vector<int32_t> positions_, outputs_, drawn_;
  std::vector<float> fetched_;
  std::vector<SampleSpec> specs_;
  std::vector<Segment> segments_;
  std::vector<KvCache::Growth> growths_;
  std::vector<AdapterGroup> groups_;
  std::unique_ptr<Workspace> adapter_scratch_;  // made when a batch first needs it
};

}  // namespace llama_rt
