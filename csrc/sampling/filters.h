// The filters that leave fewer tokens to draw from, on a list of candidates.
// Owns top-p, min-p and typical-p; which candidates there are belongs to sampler.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace llama_rt {

// Tokens that may still be sampled, ids ascending, with probabilities up to a common factor.
struct Candidates {
  std::vector<int32_t> ids;
  std::vector<float> p;

  size_t size() const { return p.size(); }
  double mass() const;
};

// Working arrays of the filters; they keep their capacity between draws.
struct FilterScratch {
  std::vector<double> bucket_mass;
  std::vector<uint64_t> keys;
  std::vector<double> surprise;  // -log p
};

// The mass that the tokens before one must exceed for top-p to drop it. A relative 1e-6 above p
// times the total, the error of the probabilities: a token at the very threshold stays.
inline double top_p_limit(float top_p, double total) {
  return static_cast<double>(top_p) * total * (1.0 + 1e-6);
}

// Keeps the candidates, in the order of falling p and rising id, until those before have more
// than `limit`. Candidates may lack tokens that are less likely than all listed ones.
void filter_top_p(Candidates& candidates, double limit, FilterScratch& scratch);

// Keeps p >= min_p * largest p.
void filter_min_p(Candidates& candidates, float min_p);

// Keeps the candidates whose -log p is nearest to the entropy, until their mass reaches typical_p.
void filter_typical(Candidates& candidates, float typical_p, FilterScratch& scratch);

}  // namespace llama_rt
