#include "runner/runner.h"

#include <algorithm>
#include <chrono>
#include <string>

#include "core/error.h"

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

std::vector<KvCache::Reservation> reservations_of(std::span<const SequenceInput> inputs) {
  std::vector<KvCache::Reservation> reservations;
  for (const SequenceInput& input : inputs) {
    reservations.push_back({input.sequence, static_cast<int64_t>(input.tokens.size())});
  }
  return reservations;
}

void require_samplers(std::span<const SequenceInput> inputs, std::span<Sampler* const> samplers) {
  if (samplers.size() == inputs.size()) return;
  throw ShapeError("there are " + std::to_string(inputs.size()) + " sequences but " +
                   std::to_string(samplers.size()) + " samplers");
}

}  // namespace

Runner::Runner(std::shared_ptr<const Model> model, const RunnerOptions& options)
    : model_(std::move(model)),
      options_(checked(options, *model_)),
      cache_(model_->shared_backend(), layout_for(*model_, options.kv_type),
             options.cache_tokens > 0 ? options.cache_tokens : options.n_ctx, options.n_ctx),
      workspace_(model_->backend().allocate(model_->workspace_bytes(options.max_batch_tokens))),
      stager_(*model_, options.max_batch_tokens),
      output_(model_->backend(), options.max_batch_tokens) {}

int Runner::create() {
  const std::scoped_lock lock(mutex_);
  return cache_.create();
}

int Runner::fork(int sequence, int64_t length) {
  const std::scoped_lock lock(mutex_);
  return cache_.fork(sequence, length);
}

void Runner::truncate(int sequence, int64_t length) {
  const std::scoped_lock lock(mutex_);
  cache_.truncate(sequence, length);
}

void Runner::release(int sequence) {
  const std::scoped_lock lock(mutex_);
  cache_.release(sequence);
}

int64_t Runner::length(int sequence) {
  const std::scoped_lock lock(mutex_);
  return cache_.length(sequence);
}

void Runner::check(std::span<const SequenceInput> inputs) const {
  int64_t rows = 0;
  const int64_t vocab = model_->config().vocab_size;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const SequenceInput& input = inputs[i];
    if (input.tokens.empty()) {
      throw ShapeError("sequence " + std::to_string(input.sequence) + " is given no tokens");
    }
    for (size_t j = 0; j < i; ++j) {
      if (inputs[j].sequence == input.sequence) {
        throw ConfigError("sequence " + std::to_string(input.sequence) + " is in the batch twice");
      }
    }
    for (const int32_t token : input.tokens) {
      if (token < 0 || token >= vocab) {
        throw ShapeError("token " + std::to_string(token) + " is outside the vocabulary of " +
                         std::to_string(vocab));
      }
    }
    for (const ActiveAdapter& active : input.adapters) {
      if (active.adapter->model() != model_.get()) {
        throw ConfigError("an adapter of another model is in the batch");
      }
    }
    rows += static_cast<int64_t>(input.tokens.size());
  }
  if (rows > options_.max_batch_tokens) {
    throw CapacityError("a batch of " + std::to_string(rows) + " tokens is larger than " +
                        "max_batch_tokens (" + std::to_string(options_.max_batch_tokens) + ")");
  }
}

// One forward pass over all inputs; the step has the wanted rows, and what was sampled from them.
StagedStep Runner::run(const StepPlan& plan, const Interrupt& interrupt) {
  const std::vector<KvCache::Reservation> reservations = reservations_of(plan.inputs);
  cache_.reserve(reservations);
  Backend& backend = model_->backend();
  StagedStep step;
  try {
    step = stager_.stage(plan, cache_);
    interrupt.check();
    backend.step(stager_.graph_key(step, plan), interrupt.flag, [&] {
      model_->forward(step.batch, workspace_, cache_.layout(), cache_.base(), interrupt,
                      step.states);
      if (plan.output == OutputKind::kStates || plan.output_rows.empty()) return;
      model_->logits(step.batch, step.states, step.logits);
      if (plan.output == OutputKind::kTokens) {
        backend.sample(step.logits, step.specs, step.tokens);
      }
    });
    interrupt.check();  // ops may have been left unfinished
  } catch (...) {
    cache_.roll_back(reservations);
    throw;
  }
  cache_.commit(reservations);
  return step;
}

std::vector<float> Runner::forward(std::span<const SequenceInput> inputs, Rows rows, bool states,
                                   const Interrupt& interrupt) {
  const std::scoped_lock lock(mutex_);
  check(inputs);
  StepPlan plan;
  plan.inputs = inputs;
  plan.output = states ? OutputKind::kStates : OutputKind::kLogits;
  int32_t row = 0;
  for (const SequenceInput& input : inputs) {
    const auto count = static_cast<int32_t>(input.tokens.size());
    const int32_t first = rows == Rows::kAll ? 0 : rows == Rows::kLast ? count - 1 : count;
    for (int32_t i = first; i < count; ++i) plan.output_rows.push_back(row + i);
    row += count;
  }
  const StagedStep step = run(plan, interrupt);
  return output_.read(states ? step.states : step.logits);
}

std::vector<Sampled> Runner::step(std::span<const SequenceInput> inputs,
                                  std::span<Sampler* const> samplers, const Interrupt& interrupt) {
  const std::scoped_lock lock(mutex_);
  check(inputs);
  require_samplers(inputs, samplers);
  StepPlan plan;
  plan.inputs = inputs;
  int32_t row = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    row += static_cast<int32_t>(inputs[i].tokens.size());
    if (samplers[i]) plan.output_rows.push_back(row - 1);
  }
  output_.plan(plan, samplers);
  const StagedStep step = run(plan, interrupt);
  output_.start_readback(step);
  std::vector<Sampled> sampled(inputs.size());
  output_.sample(step, samplers, sampled);
  return sampled;
}

// Forgets the step enqueued last, of these inputs. The backend may still compute it: its KV entries
// are overwritten, by steps enqueued later, before they can be read.
void Runner::discard_step(std::span<const SequenceInput> inputs) {
  for (const SequenceInput& input : inputs) {
    const auto tokens = static_cast<int64_t>(input.tokens.size());
    cache_.truncate(input.sequence, cache_.length(input.sequence) - tokens);
  }
}

// Each sequence is given one token, and has a sampler.
void Runner::check_decode(std::span<const SequenceInput> inputs,
                          std::span<Sampler* const> samplers) const {
  require_samplers(inputs, samplers);
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!samplers[i]) throw ConfigError("decode needs a sampler for every sequence");
    if (inputs[i].tokens.size() != 1) throw ShapeError("decode appends one token to each sequence");
  }
  check(inputs);
}

std::vector<Sampled> Runner::decode(std::span<const SequenceInput> given,
                                    std::span<Sampler* const> samplers, int64_t steps,
                                    double max_seconds, const Interrupt& interrupt) {
  const std::scoped_lock lock(mutex_);
  check_decode(given, samplers);
  std::vector<SequenceInput> inputs(given.begin(), given.end());
  std::vector<int32_t> next(inputs.size());
  StepPlan plan;
  for (size_t i = 0; i < inputs.size(); ++i) {
    next[i] = inputs[i].tokens[0];
    inputs[i].tokens = std::span(&next[i], 1);
    plan.output_rows.push_back(static_cast<int32_t>(i));
  }
  plan.inputs = inputs;
  StagedStep step;
  const auto enqueue = [&](TokenSource source, int64_t index) {
    plan.source = source;
    output_.plan(plan, samplers, source == TokenSource::kSampled ? 1 : 0);
    try {
      step = run(plan, interrupt);
      return true;
    } catch (const CancelledError&) {
      return false;
    } catch (const CapacityError&) {
      if (index == 0) throw;  // what was sampled is returned; the caller meets the limit next time
      return false;
    }
  };
  std::vector<Sampled> sampled(inputs.size());
  const auto start = Clock::now();
  double spent = 0;
  bool enqueued = steps > 0 && !inputs.empty() && enqueue(TokenSource::kInput, 0);
  for (int64_t index = 0; enqueued; ++index) {
    output_.start_readback(step);
    const StagedStep current = step;
    // Asynchronous one-step lookahead: tokens that the backend sampled need not be known here for
    // the next step, if by the pace so far there is time for one.
    const bool more = index + 1 < steps;
    const double pace = index > 0 ? spent / static_cast<double>(index) : max_seconds;
    const bool lookahead =
        more && current.output == OutputKind::kTokens && spent + pace < max_seconds;
    enqueued = lookahead && enqueue(TokenSource::kSampled, index + 1);
    output_.sample(current, samplers, sampled);
    const bool stopped = std::ranges::any_of(
        sampled, [](const Sampled& s) { return s.stopped || !s.failure.empty(); });
    spent = std::chrono::duration<double>(Clock::now() - start).count();
    if (stopped) {
      if (enqueued) discard_step(inputs);
      break;
    }
    if (lookahead) continue;
    if (!more || spent >= max_seconds) break;
    for (size_t i = 0; i < next.size(); ++i) next[i] = sampled[i].tokens.back();
    enqueued = enqueue(TokenSource::kInput, index + 1);
  }
  return sampled;
}

CachePages Runner::cache_pages() {
  const std::scoped_lock lock(mutex_);
  return {cache_.pages_in_use(), cache_.pages()};
}

RunnerMemory Runner::memory() {
  const std::scoped_lock lock(mutex_);
  return {model_->weights().held_bytes(), cache_.committed_bytes(), cache_.capacity_bytes(),
          static_cast<int64_t>(workspace_.bytes())};
}

std::vector<OpTime> Runner::profile(bool enable) {
  const std::scoped_lock lock(mutex_);
  std::vector<OpTime> times = model_->backend().take_profile();
  model_->backend().set_profiling(enable);
  return times;
}

}  // namespace llama_rt
