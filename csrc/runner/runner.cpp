#include "runner/runner.h"

#include <algorithm>
#include <atomic>
#include <bit>
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

// Steps of more rows differ too much from one another to be worth recording.
constexpr int64_t kReplayedRows = 64;

uint64_t next_owner() {
  static std::atomic<uint64_t> owners = 0;
  return ++owners << 32;
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
      workspace_(model_->backend().allocate(model_->workspace_bytes(options.max_batch_tokens))),
      staging_(model_->backend()),
      owner_(next_owner()) {}

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

// f32 memory of at least `shape`, kept from step to step.
View Runner::grown(std::shared_ptr<Storage>& storage, Shape shape) {
  const size_t bytes = static_cast<size_t>(shape.elements()) * sizeof(float);
  if (!storage || storage->bytes() < bytes) {
    storage.reset();
    storage = model_->backend().allocate(bytes);
    ++moves_;
  }
  return f32_view(reinterpret_cast<float*>(storage->data()), shape);
}

// Writes the batch where ops read it. `segments_` and `outputs_` are what it was made from.
Runner::Pass Runner::stage(std::span<const Feed> feeds, From from, Last last,
                           std::optional<AdaptedBlocks>& adapted) {
  const ModelConfig& c = model_->config();
  segments_.clear(), positions_.clear();
  size_t most_pages = 8;
  for (const Feed& f : feeds) {
    const int64_t past = cache_.length(f.sequence);
    const auto rows = static_cast<int64_t>(f.tokens.size());
    segments_.push_back(
        {static_cast<int64_t>(positions_.size()), rows, past, cache_.pages(f.sequence)});
    most_pages = std::max(most_pages, segments_.back().pages.size());
    for (int64_t i = 0; i < rows; ++i) positions_.push_back(static_cast<int32_t>(past + i));
  }
  const auto n = static_cast<int64_t>(positions_.size());
  const auto r = static_cast<int64_t>(outputs_.size());
  const auto s = static_cast<int64_t>(segments_.size());
  const int64_t half = model_->rope().half();
  // Doubled, so that recorded steps serve many lengths.
  const auto stride = static_cast<int64_t>(std::bit_ceil(most_pages));
  const bool adapts = stage_adapters(feeds);
  staging_.begin(Staging::bytes_of<int32_t>(n) + 2 * Staging::bytes_of<float>(n * half) +
                 Staging::bytes_of<int32_t>(r) + Staging::bytes_of<SampleSpec>(r) +
                 Staging::segment_bytes(n, s, stride) +
                 (adapts ? AdaptedBlocks::stage_bytes(groups_) : 0));
  const auto tokens = staging_.take<int32_t>(n);
  const auto cos = staging_.take<float>(n * half), sin = staging_.take<float>(n * half);
  const auto outputs = staging_.take<int32_t>(r);
  const auto specs = staging_.take<SampleSpec>(r);
  int32_t* to = tokens.host;
  for (const Feed& f : feeds) to = std::ranges::copy(f.tokens, to).out;
  model_->rope().rotate(positions_, cos.host, sin.host);
  std::ranges::copy(outputs_, outputs.host);
  if (last == Last::kTokens) std::ranges::copy(specs_, specs.host);

  const auto indices = [](int32_t* data, int64_t count) {
    return View{reinterpret_cast<std::byte*>(data), DType::kF32, Shape(count), 0};
  };
  Pass pass;
  pass.batch.tokens =
      indices(from == From::kDraw ? reinterpret_cast<int32_t*>(tokens_->data()) : tokens.device, n);
  pass.batch.rotation = {f32_view(cos.device, Shape(n, half)), f32_view(sin.device, Shape(n, half)),
                         c.rope.style};
  pass.batch.segments = segments_;
  pass.batch.table = staging_.segments(segments_, stride);
  pass.batch.outputs = indices(outputs.device, r);
  pass.specs = specs.device;
  if (adapts) {
    pass.batch.adapted = &adapted.emplace(*model_, groups_, *adapter_scratch_, staging_);
  }
  pass.states = grown(states_, Shape(r, c.dim));
  if (last != Last::kStates) pass.logits = grown(logits_, Shape(r, c.vocab_size));
  if (last == Last::kTokens) grown(tokens_, Shape(r));
  return pass;
}

// Equal for steps that make the same calls: one token of each of as many sequences.
StepKey Runner::key_of(const Pass& pass, From from, Last last) const {
  const int64_t rows = pass.batch.tokens.shape[0];
  const auto segments = static_cast<int64_t>(segments_.size());
  if (pass.batch.adapted || rows != segments || rows > kReplayedRows) return {};
  return {owner_ + moves_ + staging_.moves(),
          rows,
          segments,
          pass.states.shape[0],
          pass.batch.table.page_stride,
          static_cast<int64_t>(last),
          from == From::kDraw};
}

// One forward pass over all feeds; leaves the wanted rows in states_ and logits_, and what was
// drawn from them in tokens_.
void Runner::run(std::span<const Feed> feeds, From from, Last last, const Interrupt& interrupt) {
  growths_.clear();
  for (const Feed& f : feeds) {
    growths_.push_back({f.sequence, static_cast<int64_t>(f.tokens.size())});
  }
  cache_.reserve(growths_);
  Backend& backend = model_->backend();
  try {
    std::optional<AdaptedBlocks> adapted;
    const Pass pass = stage(feeds, from, last, adapted);
    staging_.send();
    interrupt.check();
    backend.step(key_of(pass, from, last), [&] {
      model_->forward(pass.batch, workspace_, cache_.layout(), cache_.base(), interrupt,
                      pass.states);
      if (last == Last::kStates || outputs_.empty()) return;
      model_->project(pass.states, pass.logits);
      if (pass.batch.adapted) pass.batch.adapted->project(pass.states, outputs_, pass.logits);
      if (last == Last::kTokens) {
        backend.sample(pass.logits, pass.specs, reinterpret_cast<int32_t*>(tokens_->data()));
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
  run(feeds, From::kFeeds, states ? Last::kStates : Last::kLogits, interrupt);
  const ModelConfig& c = model_->config();
  const size_t width = static_cast<size_t>(states ? c.dim : c.vocab_size);
  const Storage& results = states ? *states_ : *logits_;
  return fetch(results, outputs_.size() * width);
}

// Floats of the backend's memory.
std::vector<float> Runner::fetch(const Storage& storage, size_t count) {
  if (model_->backend().host_memory()) {
    const auto* data = reinterpret_cast<const float*>(storage.data());
    return {data, data + count};
  }
  std::vector<float> values(count);
  model_->backend().download(values.data(), storage.data(), count * sizeof(float));
  return values;
}

// Where to draw: on the backend if it can and no sampler needs the host. Sets specs_, to those of
// the next draws or of those `ahead` draws later.
Runner::Last Runner::plan_draw(std::span<Sampler* const> samplers, uint64_t ahead) {
  specs_.clear();
  if (!model_->backend().samples()) return Last::kLogits;
  for (const Sampler* sampler : samplers) {
    if (!sampler) continue;
    const std::optional<SampleSpec> spec = sampler->spec(ahead);
    if (!spec) return Last::kLogits;
    specs_.push_back(*spec);
  }
  return Last::kTokens;
}

// Sends what the backend drew on its way to `draw`; passes queued after it need not be waited for.
void Runner::bring(Last last) {
  if (last != Last::kTokens || outputs_.empty()) return;
  Backend& backend = model_->backend();
  if (!landing_) {
    landing_ =
        backend.make_landing(static_cast<size_t>(options_.max_batch_tokens) * sizeof(int32_t));
  }
  backend.start_download(*landing_, tokens_->data(), outputs_.size() * sizeof(int32_t));
}

// Draws for each sampler from its own row of logits_, or takes what was drawn there. One that
// cannot (its logits are all NaN, say) fails alone.
void Runner::draw(Last last, std::span<Sampler* const> samplers, std::span<Sampled> sampled) {
  const auto vocab = static_cast<size_t>(model_->config().vocab_size);
  Backend& backend = model_->backend();
  const size_t rows = outputs_.size();
  if (rows == 0) return;
  std::span<const float> logits;
  if (last == Last::kTokens) {
    drawn_.resize(rows);
    backend.finish_download(*landing_, drawn_.data(), rows * sizeof(int32_t));
  } else if (backend.host_memory()) {
    logits = {reinterpret_cast<const float*>(logits_->data()), rows * vocab};
  } else {
    fetched_ = fetch(*logits_, rows * vocab);
    logits = fetched_;
  }
  size_t row = 0;
  for (size_t i = 0; i < samplers.size(); ++i) {
    if (!samplers[i]) continue;
    Sampled& s = sampled[i];
    Drawn drawn;
    try {
      const size_t own = row++;
      drawn = last == Last::kTokens ? samplers[i]->accept(drawn_[own])
                                    : samplers[i]->draw(logits.subspan(own * vocab, vocab));
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
  const Last last = plan_draw(samplers);
  run(feeds, From::kFeeds, last, interrupt);
  bring(last);
  std::vector<Sampled> sampled(feeds.size());
  draw(last, samplers, sampled);
  return sampled;
}

// Forgets the pass queued last. The backend may still compute it: into slots that are written
// again, by passes queued later, before they are read.
void Runner::take_back() {
  for (const KvCache::Growth& g : growths_) {
    cache_.truncate(g.sequence, cache_.length(g.sequence) - g.tokens);
  }
}

// Each sequence is given one token, and has a sampler.
void Runner::check_decode(std::span<const Feed> feeds, std::span<Sampler* const> samplers) const {
  if (samplers.size() != feeds.size()) {
    throw ShapeError("there are " + std::to_string(feeds.size()) + " sequences but " +
                     std::to_string(samplers.size()) + " samplers");
  }
  for (size_t i = 0; i < feeds.size(); ++i) {
    if (!samplers[i]) throw ConfigError("decode needs a sampler for every sequence");
    if (feeds[i].tokens.size() != 1) throw ShapeError("decode feeds one token to each sequence");
  }
  check(feeds);
}

std::vector<Sampled> Runner::decode(std::span<const Feed> given, std::span<Sampler* const> samplers,
                                    int64_t steps, double max_seconds, const Interrupt& interrupt) {
  const std::scoped_lock turn(turn_);
  check_decode(given, samplers);
  std::vector<Feed> feeds(given.begin(), given.end());
  std::vector<int32_t> next(feeds.size());
  outputs_.clear();
  for (size_t i = 0; i < feeds.size(); ++i) {
    next[i] = feeds[i].tokens[0];
    feeds[i].tokens = std::span(&next[i], 1);
    outputs_.push_back(static_cast<int32_t>(i));
  }
  Last last = Last::kLogits;
  const auto queue = [&](From from, int64_t step) {
    try {
      last = plan_draw(samplers, from == From::kDraw ? 1 : 0);
      run(feeds, from, last, interrupt);
      return true;
    } catch (const CancelledError&) {
      return false;
    } catch (const CapacityError&) {
      if (step == 0) throw;  // what was drawn is returned; the caller meets the limit next time
      return false;
    }
  };
  std::vector<Sampled> sampled(feeds.size());
  const auto start = Clock::now();
  double spent = 0;
  bool queued = steps > 0 && !feeds.empty() && queue(From::kFeeds, 0);
  for (int64_t step = 0; queued; ++step) {
    bring(last);
    // What was drawn beside the logits need not be known here to go on, if there is time for one
    // step after this by the pace so far.
    const bool more = step + 1 < steps;
    const double pace = step > 0 ? spent / static_cast<double>(step) : max_seconds;
    const bool ahead = more && last == Last::kTokens && spent + pace < max_seconds;
    queued = ahead && queue(From::kDraw, step + 1);
    draw(last, samplers, sampled);
    const bool stopped = std::ranges::any_of(
        sampled, [](const Sampled& s) { return s.stopped || !s.failure.empty(); });
    spent = std::chrono::duration<double>(Clock::now() - start).count();
    if (stopped) {
      if (queued) take_back();
      break;
    }
    if (ahead) continue;
    if (!more || spent >= max_seconds) break;
    for (size_t i = 0; i < next.size(); ++i) next[i] = sampled[i].tokens.back();
    queued = queue(From::kFeeds, step + 1);
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
