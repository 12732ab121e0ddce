#include "runner/batch_stager.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <utility>

namespace llama_rt {
namespace {

// Steps of more rows differ too much from one another to be worth capturing.
constexpr int64_t kCapturedRows = 64;

uint64_t next_owner() {
  static std::atomic<uint64_t> owners = 0;
  return ++owners << 32;
}

}  // namespace

BatchStager::BatchStager(const Model& model, int64_t max_batch_tokens)
    : model_(model),
      max_batch_tokens_(max_batch_tokens),
      staging_(model.backend()),
      owner_(next_owner()) {}

BatchStager::Segments BatchStager::segments_of(std::span<const SequenceInput> inputs,
                                               const KvCache& cache) const {
  Segments segments;
  for (const SequenceInput& input : inputs) {
    const int64_t past = cache.length(input.sequence);
    const auto rows = static_cast<int64_t>(input.tokens.size());
    const auto first = static_cast<int64_t>(segments.positions.size());
    segments.of_sequence.push_back({first, rows, past, cache.pages(input.sequence)});
    segments.max_pages = std::max(segments.max_pages, segments.of_sequence.back().pages.size());
    for (int64_t i = 0; i < rows; ++i) {
      segments.positions.push_back(static_cast<int32_t>(past + i));
    }
  }
  return segments;
}

// Groups consecutive rows by their adapters; false when no row uses one.
bool BatchStager::group_adapters(std::span<const SequenceInput> inputs) {
  groups_.clear();
  int64_t row = 0;
  bool any = false;
  const auto same = [](const ActiveAdapter& a, const ActiveAdapter& b) {
    return a.adapter == b.adapter && a.weight == b.weight;
  };
  for (const SequenceInput& input : inputs) {
    const auto rows = static_cast<int64_t>(input.tokens.size());
    if (!groups_.empty() && std::ranges::equal(groups_.back().adapters, input.adapters, same)) {
      groups_.back().rows += rows;
    } else {
      groups_.push_back({row, rows, input.adapters});
    }
    any = any || !input.adapters.empty();
    row += rows;
  }
  if (!any) return false;
  const size_t bytes = AdapterForward::scratch_bytes(model_.config(), max_batch_tokens_, groups_);
  if (!adapter_scratch_ || adapter_scratch_->bytes() < bytes) {
    adapter_scratch_ = std::make_unique<Workspace>(model_.backend().allocate(bytes));
  }
  return true;
}

// f32 memory of at least `shape`, kept from step to step.
View BatchStager::ensure_capacity(std::shared_ptr<Storage>& buffer, Shape shape) {
  const size_t bytes = static_cast<size_t>(shape.elements()) * sizeof(float);
  if (!buffer || buffer->bytes() < bytes) {
    buffer.reset();
    buffer = model_.backend().allocate(bytes);
    ++buffer_generation_;
  }
  return f32_view(reinterpret_cast<float*>(buffer->data()), shape);
}

StagedStep BatchStager::stage(const StepPlan& plan, const KvCache& cache) {
  const ModelConfig& c = model_.config();
  Segments segments = segments_of(plan.inputs, cache);
  segments_ = std::move(segments.of_sequence);
  const auto n = static_cast<int64_t>(segments.positions.size());
  const auto r = static_cast<int64_t>(plan.output_rows.size());
  const auto s = static_cast<int64_t>(segments_.size());
  const int64_t half = model_.rope().half();
  // A power of two, so that one captured step serves many lengths.
  const auto page_stride = static_cast<int64_t>(std::bit_ceil(segments.max_pages));
  const bool adapts = group_adapters(plan.inputs);
  staging_.begin(Staging::bytes_of<int32_t>(n) + 2 * Staging::bytes_of<float>(n * half) +
                 Staging::bytes_of<int32_t>(r) + Staging::bytes_of<SampleSpec>(r) +
                 Staging::segment_bytes(n, s, page_stride) +
                 (adapts ? AdapterForward::stage_bytes(groups_) : 0));
  const auto tokens = staging_.take<int32_t>(n);
  const auto cos = staging_.take<float>(n * half), sin = staging_.take<float>(n * half);
  const auto outputs = staging_.take<int32_t>(r);
  const auto specs = staging_.take<SampleSpec>(r);
  int32_t* to = tokens.host;
  for (const SequenceInput& input : plan.inputs) to = std::ranges::copy(input.tokens, to).out;
  model_.rope().rotate(segments.positions, cos.host, sin.host);
  std::ranges::copy(plan.output_rows, outputs.host);
  if (plan.output == OutputKind::kTokens) std::ranges::copy(plan.specs, specs.host);

  StagedStep step;
  step.output = plan.output;
  StagedBatch& batch = step.batch;
  const auto* sampled = plan.source == TokenSource::kSampled
                            ? reinterpret_cast<const int32_t*>(tokens_->data())
                            : tokens.device;
  batch.tokens = {sampled, static_cast<size_t>(n)};
  batch.rotation = {f32_view(cos.device, Shape(n, half)), f32_view(sin.device, Shape(n, half)),
                    c.rope.style};
  batch.segments = segments_;
  batch.table = staging_.segments(segments_, page_stride);
  batch.outputs = {outputs.device, static_cast<size_t>(r)};
  batch.host_outputs = plan.output_rows;
  if (adapts) {
    batch.adapter_ops = &adapter_forward_.emplace(model_, groups_, *adapter_scratch_, staging_);
  }
  step.specs = specs.device;
  step.states = ensure_capacity(states_, Shape(r, c.dim));
  if (plan.output != OutputKind::kStates) {
    step.logits = ensure_capacity(logits_, Shape(r, c.vocab_size));
  }
  if (plan.output == OutputKind::kTokens) {
    ensure_capacity(tokens_, Shape(r));
    step.tokens = reinterpret_cast<int32_t*>(tokens_->data());
  }
  staging_.send();
  return step;
}

GraphKey BatchStager::graph_key(const StagedStep& step, const StepPlan& plan) const {
  const auto rows = static_cast<int64_t>(step.batch.tokens.size());
  const auto segments = static_cast<int64_t>(step.batch.segments.size());
  if (step.batch.adapter_ops || rows != segments || rows > kCapturedRows) return {};
  return {owner_ + buffer_generation_ + staging_.generation(),
          rows,
          segments,
          step.states.shape[0],
          step.batch.table.page_stride,
          static_cast<int64_t>(plan.output),
          plan.source == TokenSource::kSampled};
}

}  // namespace llama_rt
