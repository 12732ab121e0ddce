#include "model/runner.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>

#include "core/error.h"
#include "model/adapters/adapted.h"

namespace llama_rt {
namespace {

using Clock = std::chrono::steady_clock;

const RunnerOptions& checked(const RunnerOptions& o, const Model& model) {
  model.require_finished();
  if (o.n_ctx < 1) throw ConfigError("n_ctx must be at least 1, got " + std::to_string(o.n_ctx));
  if (o.max_batch_tokens < 1 || o.max_batch_tokens > 65536) {
    throw ConfigError("max_batch_tokens must be between 1 and 65536, got " +
                      std::to_string(o.max_batch_tokens));
  }
  if (o.cache_tokens < 0) throw ConfigError("cache_tokens must not be negative");
  return o;
}

KvLayout layout_for(const Model& model, KvType type) {
  const ModelConfig& c = model.config();
  return model.backend().kv_layout(type, c.n_layers, c.n_kv_heads, c.head_dim);
}

}  // namespace

Runner::Runner(std::shared_ptr<const Model> model, const RunnerOptions& options)
    : model_(std::move(model)),
      options_(checked(options, *model_)),
      cache_(model_->shared_backend(), layout_for(*model_, options.kv_type),
             options.cache_tokens > 0 ? options.cache_tokens : options.n_ctx, options.n_ctx),
      workspace_(model_->backend().allocate(model_->workspace_bytes(options.max_batch_tokens))) {}

int Runner::create() {
  const std::scoped_lock turn(turn_);
  return cache_.create();
}

int Runner::fork(int sequence, int64_t length) {
  const std::scoped_lock turn(turn_);
  return cache_.fork(sequence, length);
}

void Runner::truncate(int sequence, int64_t length) {
  const std::scoped_lock turn(turn_);
  cache_.truncate(sequence, length);
}

void Runner::release(int sequence) {
  const std::scoped_lock turn(turn_);
  cache_.release(sequence);
}

int64_t Runner::length(int sequence) {
  const std::scoped_lock turn(turn_);
  return cache_.length(sequence);
}

void Runner::check(std::span<const Feed> feeds) const {
  int64_t rows = 0;
  const int64_t vocab = model_->config().vocab_size;
  for (size_t i = 0; i < feeds.size(); ++i) {
    const Feed& feed = feeds[i];
    if (feed.tokens.empty()) {
      throw ShapeError("sequence " + std::to_string(feed.sequence) + " is given no tokens");
    }
    for (size_t j = 0; j < i; ++j) {
      if (feeds[j].sequence == feed.sequence) {
        throw ConfigError("sequence " + std::to_string(feed.sequence) + " is in the batch twice");
      }
    }
    for (const int32_t token : feed.tokens) {
      if (token < 0 || token >= vocab) {
        throw ShapeError("token " + std::to_string(token) + " is outside the vocabulary of " +
                         std::to_string(vocab));
      }
    }
    for (const AdapterMix& m : feed.mix) {
      if (m.adapter->model() != model_.get()) {
        throw ConfigError("an adapter of another model is in the batch");
      }
    }
    rows += static_cast<int64_t>(feed.tokens.size());
  }
  if (rows > options_.max_batch_tokens) {
    throw CapacityError("a batch of " + std::to_string(rows) + " tokens is larger than " +
                        "max_batch_tokens (" + std::to_string(options_.max_batch_tokens) + ")");
  }
}

// Groups consecutive rows by their mix; false when no row uses an adapter.
bool Runner::stage_adapters(std::span<const Feed> feeds) {
  groups_.clear();
  int64_t row = 0;
  bool any = false;
  const auto same = [](const AdapterMix& a, const AdapterMix& b) {
    return a.adapter == b.adapter && a.weight == b.weight;
  };
  for (const Feed& f : feeds) {
    const auto rows = static_cast<int64_t>(f.tokens.size());
    if (!groups_.empty() && std::ranges::equal(groups_.back().mix, f.mix, same)) {
      groups_.back().rows += rows;
    } else {
      groups_.push_back({row, rows, f.mix});
    }
    any = any || !f.mix.empty();
    row += rows;
  }
  if (!any) return false;
  const size_t bytes =
      AdaptedBlocks::scratch_bytes(model_->config(), options_.max_batch_tokens, groups_);
  if (!adapter_scratch_ || adapter_scratch_->bytes() < bytes) {
    adapter_scratch_ = std::make_unique<Workspace>(model_->backend().allocate(bytes));
  }
  return true;
}

// One forward pass over all feeds; leaves the wanted rows in states_ or logits_.
void Runner::run(std::span<const Feed> feeds, std::span<const int32_t> outputs, bool states,
                 const Interrupt& interrupt) {
  const ModelConfig& c = model_->config();
  growths_.clear();
  for (const Feed& f : feeds) {
    growths_.push_back({f.sequence, static_cast<int64_t>(f.tokens.size())});
  }
  cache_.reserve(growths_);

  tokens_.clear(), positions_.clear(), segments_.clear();
  for (const Feed& f : feeds) {
    const int64_t past = cache_.length(f.sequence);
    segments_.push_back({static_cast<int64_t>(tokens_.size()),
                         static_cast<int64_t>(f.tokens.size()), past, cache_.pages(f.sequence)});
    for (size_t i = 0; i < f.tokens.size(); ++i) {
      tokens_.push_back(f.tokens[i]);
      positions_.push_back(static_cast<int32_t>(past + static_cast<int64_t>(i)));
    }
  }
  const auto n = static_cast<int64_t>(tokens_.size());
  const auto r = static_cast<int64_t>(outputs.size());
  const int64_t half = model_->rope().half();
  cos_.resize(static_cast<size_t>(n * half));
  sin_.resize(cos_.size());
  model_->rope().rotate(positions_, cos_.data(), sin_.data());
  states_.resize(static_cast<size_t>(r * c.dim));
  if (!states) logits_.resize(static_cast<size_t>(r * c.vocab_size));

  StagedBatch batch;
  batch.tokens = {reinterpret_cast<std::byte*>(tokens_.data()), DType::kF32, Shape(n), 0};
  batch.rotation = {f32_view(cos_.data(), Shape(n, half)), f32_view(sin_.data(), Shape(n, half)),
                    c.rope.style};
  batch.segments = segments_;
  batch.outputs = outputs;
  std::optional<AdaptedBlocks> adapted;
  if (stage_adapters(feeds)) {
    batch.adapted = &adapted.emplace(*model_, groups_, *adapter_scratch_);
  }
  try {
    model_->backend().step([&] {
      const View rows = f32_view(states_.data(), Shape(r, c.dim));
      model_->forward(batch, workspace_, cache_.layout(), cache_.base(), interrupt, rows);
      if (!states && r > 0) {
        const View logits = f32_view(logits_.data(), Shape(r, c.vocab_size));
        model_->project(rows, logits);
        if (batch.adapted) batch.adapted->project(rows, outputs, logits);
      }
    });
  } catch (...) {
    cache_.roll_back(growths_);
    throw;
  }
  cache_.commit(growths_);
}

std::vector<float> Runner::forward(std::span<const Feed> feeds, Rows rows, bool states,
                                   const Interrupt& interrupt) {
  const std::scoped_lock turn(turn_);
  check(feeds);
  outputs_.clear();
  int32_t row = 0;
  for (const Feed& f : feeds) {
    const auto count = static_cast<int32_t>(f.tokens.size());
    const int32_t first = rows == Rows::kAll ? 0 : rows == Rows::kLast ? count - 1 : count;
    for (int32_t i = first; i < count; ++i) outputs_.push_back(row + i);
    row += count;
  }
  run(feeds, outputs_, states, interrupt);
  return states ? states_ : logits_;
}

// Draws for each sampler from its own row of logits_. One that cannot (its logits are all NaN, say)
// fails alone.
void Runner::draw(std::span<Sampler* const> samplers, std::span<Sampled> sampled) {
  const auto vocab = static_cast<size_t>(model_->config().vocab_size);
  size_t row = 0;
  for (size_t i = 0; i < samplers.size(); ++i) {
    if (!samplers[i]) continue;
    Sampled& s = sampled[i];
    Drawn drawn;
    try {
      drawn = samplers[i]->draw(std::span(logits_).subspan(row++ * vocab, vocab));
    } catch (const Error& error) {
      s.failure = error.what();
      continue;
    }
    s.tokens.push_back(drawn.token);
    s.stopped = drawn.stop;
    if (samplers[i]->options().logprobs >= 0) {
      s.logprobs.push_back(drawn.logprob);
      s.top_logprobs.push_back(std::move(drawn.top));
    }
  }
}

std::vector<Sampled> Runner::step(std::span<const Feed> feeds, std::span<Sampler* const> samplers,
                                  const Interrupt& interrupt) {
  const std::scoped_lock turn(turn_);
  check(feeds);
  if (samplers.size() != feeds.size()) {
    throw ShapeError("there are " + std::to_string(feeds.size()) + " sequences but " +
                     std::to_string(samplers.size()) + " samplers");
  }
  outputs_.clear();
  int32_t row = 0;
  for (size_t i = 0; i < feeds.size(); ++i) {
    row += static_cast<int32_t>(feeds[i].tokens.size());
    if (samplers[i]) outputs_.push_back(row - 1);
  }
  run(feeds, outputs_, false, interrupt);
  std::vector<Sampled> sampled(feeds.size());
  draw(samplers, sampled);
  return sampled;
}

std::vector<Sampled> Runner::decode(std::span<const Feed> given, std::span<Sampler* const> samplers,
                                    int64_t steps, double max_seconds, const Interrupt& interrupt) {
  const std::scoped_lock turn(turn_);
  if (samplers.size() != given.size()) {
    throw ShapeError("there are " + std::to_string(given.size()) + " sequences but " +
                     std::to_string(samplers.size()) + " samplers");
  }
  std::vector<Feed> feeds(given.begin(), given.end());
  std::vector<int32_t> next(feeds.size()), rows(feeds.size());
  for (size_t i = 0; i < feeds.size(); ++i) {
    if (!samplers[i]) throw ConfigError("decode needs a sampler for every sequence");
    if (feeds[i].tokens.size() != 1) throw ShapeError("decode feeds one token to each sequence");
    next[i] = feeds[i].tokens[0];
    feeds[i].tokens = std::span(&next[i], 1);
    rows[i] = static_cast<int32_t>(i);
  }
  check(feeds);
  std::vector<Sampled> sampled(feeds.size());
  const auto start = Clock::now();
  for (int64_t step = 0; step < steps && !feeds.empty(); ++step) {
    try {
      run(feeds, rows, false, interrupt);
    } catch (const CancelledError&) {
      break;
    } catch (const CapacityError&) {
      if (step == 0) throw;  // what was drawn is returned; the caller meets the limit next time
      break;
    }
    draw(samplers, sampled);
    const bool stopped = std::ranges::any_of(
        sampled, [](const Sampled& s) { return s.stopped || !s.failure.empty(); });
    const std::chrono::duration<double> spent = Clock::now() - start;
    if (stopped || spent.count() >= max_seconds) break;
    for (size_t i = 0; i < next.size(); ++i) next[i] = sampled[i].tokens.back();
  }
  return sampled;
}

RunnerMemory Runner::memory() {
  const std::scoped_lock turn(turn_);
  return {model_->weights().held_bytes(), cache_.committed_bytes(), cache_.capacity_bytes(),
          static_cast<int64_t>(workspace_.bytes())};
}

std::vector<OpTime> Runner::profile(bool enable) {
  const std::scoped_lock turn(turn_);
  std::vector<OpTime> times = model_->backend().take_profile();
  model_->backend().set_profiling(enable);
  return times;
}

}  // namespace llama_rt
