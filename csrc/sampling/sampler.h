// From logits to a token: one request's settings, random counter and token history.
// Owns the sampling rules and their order; the passes over the vocabulary belong to scan.h,
// when to draw belongs to the runner, and texts as stop conditions to Python.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "backend/specs.h"
#include "core/scan.h"

namespace llama_rt {

// "Off" is the value that changes nothing.
struct SamplerOptions {
  float temperature = 0.8f;                       // 0: the most likely token
  int top_k = 0;                                  // <= 0: off
  float top_p = 0.95f;                            // 1: off
  float min_p = 0.0f;                             // 0: off
  float typical_p = 1.0f;                         // 1: off
  float repetition_penalty = 1.0f;                // 1: off
  float presence_penalty = 0.0f;                  // 0: off
  float frequency_penalty = 0.0f;                 // 0: off
  std::vector<std::pair<int, float>> logit_bias;  // (token, added to its logit); -inf bars it
  uint64_t seed = 0;
  std::vector<int32_t> stop_ids;  // sampled ones set SampledToken::stop
  int logprobs = -1;              // -1: none, 0: the sampled token's, n: and the n most likely
};

// What one draw gave.
struct SampledToken {
  int32_t token = 0;
  bool stop = false;
  // Natural logarithm of the token's probability under the softmax of the logits as the model gave
  // them: no bias, penalty, temperature or filter. 0 unless asked for.
  float logprob = 0;
  // The most likely tokens under the same softmax, likeliest first, equal ones by id; the sampled
  // token is among them only if it belongs there.
  std::vector<std::pair<int32_t, float>> top;
};

// A draw applies, in this order: logit bias; repetition penalty; presence and frequency penalty;
// temperature; top-k; typical-p; top-p; min-p. Each filter sees what the one before left,
// renormalised, and leaves at least one token. Of tokens equally likely the lower id ranks first.
//
//   repetition r       for ids in the prompt or the generated text: score < 0 ? score*r : score/r
//                      (CTRL, Keskar et al. 2019, as in transformers)
//   presence, frequency  score - presence*[count > 0] - frequency*count, count in the generated
//                      text only (OpenAI API)
//   top-k              tokens whose score is at least the k-th largest; ties stay
//   typical-p          by distance of -log p from the entropy, nearest first, until their mass
//                      reaches p; ties with the last one stay (Meister et al. 2022)
//   top-p              by falling probability; a token goes when those before it already have
//                      more than p, so the one that crosses p stays (Meta's llama)
//   min-p              tokens with at least min_p times the largest probability
//
// The random number is Philox keyed by the seed and counted by the draw's index in the generated
// text, so a draw depends on its own logits and place only. NaN logits count as -inf.
class Sampler {
 public:
  // `scan` outlives the sampler. Throws ConfigError naming the option that is out of range.
  Sampler(int vocab, SamplerOptions options, const ScanKernels& scan);

  // Adds prompt tokens to the history of the repetition penalty. Throws ConfigError, and adds
  // none, if one is outside the vocabulary.
  void observe(std::span<const int32_t> prompt);

  // Draws the next token from logits [vocab] and adds it to the history. Throws ShapeError on
  // another length, Error when no token can be sampled; the state is then as before. Callers must
  // not draw from one sampler at the same time.
  SampledToken sample(std::span<const float> logits);

  // The next draw as a backend does it, or the one `ahead` draws later, if nothing in it is left to
  // the host (a penalty, a bias, typical-p, log-probabilities); `accept` takes the tokens that the
  // backend drew, in their order.
  std::optional<SampleSpec> spec(uint64_t ahead = 0) const;
  SampledToken accept(int32_t token);

  int vocab() const { return vocab_; }
  const SamplerOptions& options() const { return options_; }

 private:
  bool edit(float* scores) const;
  void record(int32_t token);
  bool stops(int32_t token) const;
  void report(std::span<const float> logits, SampledToken& sampled) const;

  const ScanKernels* scan_;
  int vocab_;
  SamplerOptions options_;
  uint64_t draws_ = 0;
  // History, kept only where a penalty wants it: flags and counts by id, and the ids that have one.
  std::vector<uint8_t> seen_;
  std::vector<int32_t> seen_ids_;
  std::vector<int32_t> counts_;
  std::vector<int32_t> counted_ids_;
};

}  // namespace llama_rt
