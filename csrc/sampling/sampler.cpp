#include "sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "core/error.h"
#include "core/random.h"
#include "sampling/filters.h"
#include "sampling/scan.h"

namespace llama_rt {
namespace {

// Working arrays of a draw, shared by all samplers of a thread: a request in flight costs no
// vocabulary-sized memory of its own.
struct Scratch {
  std::vector<float> scores;  // [padded vocab]
  std::vector<float> p;       // [padded vocab]
  std::vector<int32_t> ids;   // [padded vocab]
  std::vector<float> largest;
  Candidates candidates;
  FilterScratch filters;

  void fit(int64_t vocab) {
    const auto size = static_cast<size_t>(scan::padded(vocab));
    if (scores.size() >= size) return;
    scores.resize(size);
    p.resize(size);
    ids.resize(size);
  }
};

Scratch& scratch_for(int64_t vocab) {
  thread_local Scratch scratch;
  scratch.fit(vocab);
  return scratch;
}

[[noreturn]] void refuse(const char* option, const char* expected, double got) {
  throw ConfigError(std::string("sampler: ") + option + " must be " + expected + ", got " +
                    std::to_string(got));
}

[[noreturn]] void refuse_all() {
  throw Error("sampler: no token can be sampled, every logit is suppressed, -inf or NaN");
}

// `test` is written so that NaN fails it.
void check(bool test, const char* option, const char* expected, double got) {
  if (!test) refuse(option, expected, got);
}

void check_options(int vocab, const SamplerOptions& o) {
  check(vocab > 0, "vocab_size", "positive", vocab);
  check(o.temperature >= 0 && std::isfinite(o.temperature), "temperature", "0 or a positive number",
        o.temperature);
  check(o.top_p >= 0 && o.top_p <= 1, "top_p", "in [0, 1]", o.top_p);
  check(o.min_p >= 0 && o.min_p <= 1, "min_p", "in [0, 1]", o.min_p);
  check(o.typical_p >= 0 && o.typical_p <= 1, "typical_p", "in [0, 1]", o.typical_p);
  check(o.repetition_penalty > 0 && std::isfinite(o.repetition_penalty), "repetition_penalty",
        "a positive number", o.repetition_penalty);
  check(std::isfinite(o.presence_penalty), "presence_penalty", "a number", o.presence_penalty);
  check(std::isfinite(o.frequency_penalty), "frequency_penalty", "a number", o.frequency_penalty);
  check(o.logprobs >= -1, "logprobs", "-1 (none) or more", o.logprobs);
  for (const auto& [token, bias] : o.logit_bias) {
    check(token >= 0 && token < vocab, "a token of logit_bias", "in the vocabulary", token);
    check(!std::isnan(bias), "a value of logit_bias", "a number", bias);
  }
}

// Fills `candidates` with ids [count] and their probabilities.
void list_candidates(Scratch& s, int64_t count, const float* p) {
  s.candidates.ids.assign(s.ids.begin(), s.ids.begin() + count);
  s.candidates.p.resize(static_cast<size_t>(count));
  for (size_t i = 0; i < static_cast<size_t>(count); ++i) s.candidates.p[i] = p[s.ids[i]];
}

// Tokens with one of the k highest scores; only theirs are exponentiated.
void list_top_k(const ScanKernels& kernels, Scratch& s, int64_t n, int top_k, float top,
                float scale) {
  const float kth = scan::kth_largest(s.scores.data(), n, top_k, s.largest);
  const float min_value = std::max(kth, std::numeric_limits<float>::lowest());
  const int64_t count = scan::at_least(s.scores.data(), n, min_value, s.ids.data());
  list_candidates(s, count, s.scores.data());
  auto& p = s.candidates.p;
  p.resize(static_cast<size_t>(scan::padded(count)), scan::kSuppressed);
  scan::Mass mass;
  kernels.exp(p.data(), static_cast<int64_t>(p.size()), top, scale, p.data(), &mass);
  p.resize(static_cast<size_t>(count));
}

// A probability below which no token can pass top-p: either a level whose mass alone exceeds the
// limit, or what n tokens at most may share of the rest.
double nucleus_floor(const scan::Mass& mass, double limit, int64_t n) {
  for (int j = 0; j < scan::kLevels; ++j) {
    if (mass.above[j] > limit) return static_cast<double>(scan::kLevel[j]);
  }
  return std::max(0.0, mass.total - limit) / static_cast<double>(n) * 0.999;
}

int32_t pick(const Candidates& candidates, double u) {
  const double target = u * candidates.mass();
  double sum = 0;
  int32_t last = candidates.ids.front();
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (!(candidates.p[i] > 0)) continue;
    last = candidates.ids[i];
    sum += static_cast<double>(candidates.p[i]);
    if (sum > target) break;
  }
  return last;
}

// Draws from s.scores [n padded], whose largest is `top`. Order of the list: ascending ids.
int32_t sample_filtered(const ScanKernels& kernels, Scratch& s, int64_t vocab, float top,
                        const SamplerOptions& o, double u) {
  const int64_t n = scan::padded(vocab);
  const float scale = std::min(1.0f / o.temperature, std::numeric_limits<float>::max());
  const bool typical = o.typical_p < 1, nucleus = o.top_p < 1;
  double total;
  if (o.top_k > 0 && o.top_k < vocab) {
    list_top_k(kernels, s, n, o.top_k, top, scale);
    total = s.candidates.mass();
  } else {
    scan::Mass mass;
    kernels.exp(s.scores.data(), n, top, scale, s.p.data(), &mass);
    total = mass.total;
    if (!typical && !nucleus && o.min_p <= 0) {
      return static_cast<int32_t>(scan::find_sum(s.p.data(), n, u * total));
    }
    double floor = static_cast<double>(o.min_p);  // the largest probability is 1 here
    if (nucleus) floor = nucleus_floor(mass, top_p_limit(o.top_p, total), vocab);
    if (typical) floor = 0;
    const float min_value = std::max(static_cast<float>(floor), std::numeric_limits<float>::min());
    list_candidates(s, scan::at_least(s.p.data(), n, min_value, s.ids.data()), s.p.data());
  }
  if (typical) {
    filter_typical(s.candidates, o.typical_p, s.filters);
    total = s.candidates.mass();
  }
  if (nucleus) filter_top_p(s.candidates, top_p_limit(o.top_p, total), s.filters);
  if (o.min_p > 0) filter_min_p(s.candidates, o.min_p);
  return pick(s.candidates, u);
}

}  // namespace

Sampler::Sampler(int vocab, SamplerOptions options, const ScanKernels& scan)
    : scan_(&scan), vocab_(vocab), options_(std::move(options)) {
  check_options(vocab, options_);
  const auto size = static_cast<size_t>(vocab);
  if (options_.repetition_penalty != 1.0f) seen_.resize(size);
  if (options_.presence_penalty != 0.0f || options_.frequency_penalty != 0.0f) counts_.resize(size);
}

void Sampler::observe(std::span<const int32_t> prompt) {
  for (const int32_t token : prompt) {
    if (token >= 0 && token < vocab_) continue;
    throw ConfigError("sampler: token " + std::to_string(token) + " is outside the vocabulary of " +
                      std::to_string(vocab_));
  }
  if (seen_.empty()) return;
  for (const int32_t token : prompt) {
    if (std::exchange(seen_[static_cast<size_t>(token)], uint8_t{1}) == 0) {
      seen_ids_.push_back(token);
    }
  }
}

void Sampler::record(int32_t token) {
  ++draws_;
  const auto at = static_cast<size_t>(token);
  if (!seen_.empty() && std::exchange(seen_[at], uint8_t{1}) == 0) seen_ids_.push_back(token);
  if (!counts_.empty() && counts_[at]++ == 0) counted_ids_.push_back(token);
}

// Bias and penalties, on the few tokens they concern; true if there were any.
bool Sampler::edit(float* scores) const {
  for (const auto& [token, bias] : options_.logit_bias) {
    scores[token] = scan::clean(scores[token] + bias);
  }
  const float r = options_.repetition_penalty;
  for (const int32_t token : seen_ids_) {
    const float score = scores[token];
    scores[token] = scan::clean(score < 0 ? score * r : score / r);
  }
  for (const int32_t token : counted_ids_) {
    const auto count = static_cast<float>(counts_[static_cast<size_t>(token)]);
    scores[token] =
        scan::clean(scores[token] - options_.presence_penalty - options_.frequency_penalty * count);
  }
  return !options_.logit_bias.empty() || !seen_ids_.empty() || !counted_ids_.empty();
}

SampledToken Sampler::sample(std::span<const float> logits) {
  if (std::cmp_not_equal(logits.size(), vocab_)) {
    throw ShapeError("sampler: expected logits [" + std::to_string(vocab_) + "], got [" +
                     std::to_string(logits.size()) + "]");
  }
  Scratch& s = scratch_for(vocab_);
  const int64_t n = scan::padded(vocab_);
  float top = scan_->copy_clean(logits.data(), vocab_, s.scores.data());
  if (edit(s.scores.data())) top = scan::maximum(s.scores.data(), n);
  if (top == scan::kSuppressed) refuse_all();
  SampledToken sampled;
  if (options_.temperature == 0.0f) {
    sampled.token = static_cast<int32_t>(scan::first_equal(s.scores.data(), n, top));
  } else {
    const double u = uniform_double(philox(options_.seed, draws_));
    sampled.token = sample_filtered(*scan_, s, vocab_, top, options_, u);
  }
  sampled.stop = stops(sampled.token);
  if (options_.logprobs >= 0) report(logits, sampled);
  record(sampled.token);
  return sampled;
}

bool Sampler::stops(int32_t token) const {
  return std::ranges::find(options_.stop_ids, token) != options_.stop_ids.end();
}

std::optional<SampleSpec> Sampler::spec(uint64_t ahead) const {
  const SamplerOptions& o = options_;
  const bool plain = o.logit_bias.empty() && seen_.empty() && counts_.empty();
  if (!plain || o.typical_p < 1 || o.logprobs >= 0) return std::nullopt;
  return SampleSpec{o.temperature, o.top_k, o.top_p, o.min_p, o.seed, draws_ + ahead};
}

SampledToken Sampler::accept(int32_t token) {
  if (token < 0 || token >= vocab_) refuse_all();
  SampledToken sampled;
  sampled.token = token;
  sampled.stop = stops(token);
  record(token);
  return sampled;
}

// Log-probabilities under the softmax of the logits as they came.
void Sampler::report(std::span<const float> logits, SampledToken& sampled) const {
  Scratch& s = scratch_for(vocab_);
  const int64_t n = scan::padded(vocab_);
  const float* scores = s.scores.data();
  const float top = scan_->copy_clean(logits.data(), vocab_, s.scores.data());
  const double log_total = static_cast<double>(top) + std::log(scan_->sum_exp(scores, n, top));
  const auto logprob = [&](int32_t id) {
    return static_cast<float>(static_cast<double>(scores[id]) - log_total);
  };
  sampled.logprob = logprob(sampled.token);
  const int64_t wanted = std::min(options_.logprobs, vocab_);
  if (wanted == 0) return;
  const float kth = scan::kth_largest(scores, n, wanted, s.largest);
  const float min_value = std::max(kth, std::numeric_limits<float>::lowest());
  const int64_t count = scan::at_least(scores, n, min_value, s.ids.data());
  const auto end = s.ids.begin() + count;
  const auto last = s.ids.begin() + std::min(wanted, count);
  std::partial_sort(s.ids.begin(), last, end, [&](int32_t a, int32_t b) {
    return scores[a] != scores[b] ? scores[a] > scores[b] : a < b;
  });
  for (auto id = s.ids.begin(); id != last; ++id) sampled.top.emplace_back(*id, logprob(*id));
}

}  // namespace llama_rt
