#include "runner/output_sampler.h"

#include "core/error.h"

namespace llama_rt {

void OutputSampler::plan(StepPlan& plan, std::span<Sampler* const> samplers,
                         uint64_t lookahead) const {
  plan.specs.clear();
  plan.output = OutputKind::kLogits;
  if (!backend_.samples()) return;
  for (const Sampler* sampler : samplers) {
    if (!sampler) continue;
    const std::optional<SampleSpec> spec = sampler->spec(lookahead);
    if (!spec) return;
    plan.specs.push_back(*spec);
  }
  plan.output = OutputKind::kTokens;
}

void OutputSampler::start_readback(const StagedStep& step) {
  const size_t rows = step.batch.outputs.size();
  if (step.output != OutputKind::kTokens || rows == 0) return;
  if (!readback_) {
    readback_ = backend_.make_readback_buffer(static_cast<size_t>(max_rows_) * sizeof(int32_t));
  }
  backend_.start_readback(*readback_, reinterpret_cast<const std::byte*>(step.tokens),
                          rows * sizeof(int32_t));
}

void OutputSampler::sample(const StagedStep& step, std::span<Sampler* const> samplers,
                           std::span<Sampled> sampled) {
  const size_t rows = step.batch.outputs.size();
  if (rows == 0) return;
  std::vector<int32_t> ids;
  std::vector<float> copied;
  std::span<const float> logits;
  if (step.output == OutputKind::kTokens) {
    ids.resize(rows);
    backend_.finish_readback(*readback_, ids.data(), rows * sizeof(int32_t));
  } else if (backend_.host_memory()) {
    logits = {step.logits.f32(), static_cast<size_t>(step.logits.shape.elements())};
  } else {
    logits = copied = read(step.logits);
  }
  const size_t vocab = logits.size() / rows;
  size_t row = 0;
  for (size_t i = 0; i < samplers.size(); ++i) {
    if (!samplers[i]) continue;
    Sampled& s = sampled[i];
    SampledToken token;
    try {
      const size_t own = row++;
      token = ids.empty() ? samplers[i]->sample(logits.subspan(own * vocab, vocab))
                          : samplers[i]->accept(ids[own]);
    } catch (const Error& error) {
      s.failure = error.what();
      continue;
    }
    s.tokens.push_back(token.token);
    s.stopped = token.stop;
    if (samplers[i]->options().logprobs >= 0) {
      s.logprobs.push_back(token.logprob);
      s.top_logprobs.push_back(std::move(token.top));
    }
  }
}

std::vector<float> OutputSampler::read(View view) const {
  const auto count = static_cast<size_t>(view.shape.elements());
  if (backend_.host_memory()) return {view.f32(), view.f32() + count};
  std::vector<float> values(count);
  backend_.download(values.data(), view.data, count * sizeof(float));
  return values;
}

}  // namespace llama_rt
