#include "model/sampler_filters.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>

namespace llama_rt {
namespace {

// Candidates by rank as one integer: larger p first, of equal ones the lower id. The bits of
// positive floats order as the floats do.
uint64_t rank_key(float p, int32_t id) {
  return uint64_t{std::bit_cast<uint32_t>(p)} << 32 | ~static_cast<uint32_t>(id);
}

template <typename Keep>
void keep_if(Candidates& candidates, Keep keep) {
  size_t kept = 0;
  for (size_t i = 0; i < candidates.size(); ++i) {
    candidates.ids[kept] = candidates.ids[i];
    candidates.p[kept] = candidates.p[i];
    kept += keep(i) ? 1 : 0;
  }
  candidates.ids.resize(kept);
  candidates.p.resize(kept);
}

// Buckets of probabilities: 64 for each power of two from 2^-30 to 1, everything below in the
// first. Narrow enough that the one bucket that is sorted holds few tokens.
constexpr int kMantissaBits = 6;
constexpr uint32_t kFirstExponent = 127 - 30;
constexpr size_t kBuckets = (size_t{31} << kMantissaBits) + 1;

size_t bucket_of(float p) {
  const uint32_t top = std::bit_cast<uint32_t>(p) >> (23 - kMantissaBits);
  constexpr uint32_t kBase = kFirstExponent << kMantissaBits;
  return top < kBase ? 0 : std::min<size_t>(top - kBase + 1, kBuckets - 1);
}

}  // namespace

double Candidates::mass() const {
  double total = 0;
  for (const float one : p) total += static_cast<double>(one);
  return total;
}

void filter_top_p(Candidates& candidates, double limit, FilterScratch& scratch) {
  scratch.bucket_mass.assign(kBuckets, 0.0);
  for (const float p : candidates.p) scratch.bucket_mass[bucket_of(p)] += static_cast<double>(p);
  // The bucket in which the sum passes the limit: all above stay, all below go.
  double before = 0;
  size_t crossing = kBuckets;
  while (crossing > 0 && before + scratch.bucket_mass[crossing - 1] <= limit) {
    before += scratch.bucket_mass[--crossing];
  }
  if (crossing-- == 0) return;
  scratch.keys.clear();
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (bucket_of(candidates.p[i]) == crossing) {
      scratch.keys.push_back(rank_key(candidates.p[i], candidates.ids[i]));
    }
  }
  std::sort(scratch.keys.begin(), scratch.keys.end(), std::greater<>());
  uint64_t last = 0;
  for (const uint64_t key : scratch.keys) {
    if (before > limit) break;
    before += static_cast<double>(std::bit_cast<float>(static_cast<uint32_t>(key >> 32)));
    last = key;
  }
  keep_if(candidates,
          [&](size_t i) { return rank_key(candidates.p[i], candidates.ids[i]) >= last; });
}

void filter_min_p(Candidates& candidates, float min_p) {
  if (candidates.size() == 0) return;
  const float least = min_p * *std::max_element(candidates.p.begin(), candidates.p.end());
  keep_if(candidates, [&](size_t i) { return candidates.p[i] >= least; });
}

void filter_typical(Candidates& candidates, float typical_p, FilterScratch& scratch) {
  keep_if(candidates, [&](size_t i) { return candidates.p[i] > 0; });  // 0 has no logarithm
  const double total = candidates.mass();
  const double log_total = std::log(total);
  double entropy = 0;
  for (const float p : candidates.p) {
    entropy += static_cast<double>(p) / total * (log_total - std::log(static_cast<double>(p)));
  }
  auto& ranked = scratch.ranked;
  ranked.clear();
  for (size_t i = 0; i < candidates.size(); ++i) {
    const double surprise = log_total - std::log(static_cast<double>(candidates.p[i]));
    ranked.emplace_back(static_cast<float>(std::abs(surprise - entropy)), static_cast<int32_t>(i));
  }
  // Sorts no more than is kept, in growing steps.
  double mass = 0;
  float last = 0;
  const double wanted = static_cast<double>(typical_p) * total;
  size_t sorted = 0;
  for (size_t i = 0; i < ranked.size() && mass < wanted; ++i) {
    if (i == sorted) {
      const auto from = ranked.begin() + static_cast<std::ptrdiff_t>(sorted);
      sorted = std::min(ranked.size(), std::max<size_t>(256, 4 * sorted));
      const auto to = ranked.begin() + static_cast<std::ptrdiff_t>(sorted);
      if (to != ranked.end()) std::nth_element(from, to, ranked.end());
      std::sort(from, to);
    }
    last = ranked[i].first;
    mass += static_cast<double>(candidates.p[static_cast<size_t>(ranked[i].second)]);
  }
  for (const auto& [distance, place] : ranked) {
    if (distance > last) candidates.p[static_cast<size_t>(place)] = 0;
  }
  keep_if(candidates, [&](size_t i) { return candidates.p[i] > 0; });
}

}  // namespace llama_rt
