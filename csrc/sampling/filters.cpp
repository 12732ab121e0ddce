#include "sampling/filters.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace llama_rt {
namespace {

// A rank as one integer, smallest first: the bits of floats that are not negative order as the
// floats do, and the lower half settles ties.
uint64_t rank_key(uint32_t bits, size_t tie) { return uint64_t{bits} << 32 | tie; }

// By falling p, then by place, which is by id.
uint64_t probability_key(float p, size_t place) {
  return rank_key(~std::bit_cast<uint32_t>(p), place);
}

// The last key needed: going through the keys by rank, the one with which the mass, `before`
// included, first exceeds `limit`. Sorts halves of the range only as far as the answer needs.
uint64_t last_needed(std::vector<uint64_t>& keys, const std::vector<float>& p, double before,
                     double limit) {
  const auto mass_of = [&](uint64_t key) { return static_cast<double>(p[key & 0xffffffffu]); };
  auto from = keys.begin(), to = keys.end();
  while (to - from > 48) {
    const auto middle = from + (to - from) / 2;
    std::nth_element(from, middle, to);
    double half = 0;
    for (auto key = from; key != middle; ++key) half += mass_of(*key);
    if (before + half > limit) {
      to = middle;
    } else {
      before += half;
      from = middle;
    }
  }
  std::sort(from, to);
  uint64_t last = from == to ? 0 : *from;
  for (; from != to && before <= limit; ++from) {
    last = *from;
    before += mass_of(last);
  }
  return last;
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
  const auto& p = candidates.p;
  // Above a few hundred candidates, find the bucket in which the sum passes the limit: all above
  // it stay, all below it go.
  double before = 0;
  size_t crossing = 0;
  const bool bucketed = p.size() > 256;
  if (bucketed) {
    scratch.bucket_mass.assign(kBuckets, 0.0);
    for (const float one : p) scratch.bucket_mass[bucket_of(one)] += static_cast<double>(one);
    crossing = kBuckets - 1;
    while (crossing > 0 && before + scratch.bucket_mass[crossing] <= limit) {
      before += scratch.bucket_mass[crossing--];
    }
  }
  scratch.keys.clear();
  for (size_t i = 0; i < p.size(); ++i) {
    if (bucketed && bucket_of(p[i]) != crossing) continue;
    scratch.keys.push_back(probability_key(p[i], i));
  }
  const uint64_t last = last_needed(scratch.keys, p, before, limit);
  if (scratch.keys.empty()) return;  // rounding: the limit is never passed
  keep_if(candidates, [&](size_t i) { return probability_key(candidates.p[i], i) <= last; });
}

void filter_min_p(Candidates& candidates, float min_p) {
  if (candidates.size() == 0) return;
  const float min_value = min_p * *std::max_element(candidates.p.begin(), candidates.p.end());
  keep_if(candidates, [&](size_t i) { return candidates.p[i] >= min_value; });
}

void filter_typical(Candidates& candidates, float typical_p, FilterScratch& scratch) {
  keep_if(candidates, [&](size_t i) { return candidates.p[i] > 0; });  // 0 has no logarithm
  const double total = candidates.mass();
  const double log_total = std::log(total);
  auto& surprise = scratch.surprise;
  surprise.clear();
  double entropy = 0;
  for (const float p : candidates.p) {
    surprise.push_back(log_total - std::log(static_cast<double>(p)));
    entropy += static_cast<double>(p) / total * surprise.back();
  }
  const auto distance = [&](size_t i) {
    return std::bit_cast<uint32_t>(static_cast<float>(std::abs(surprise[i] - entropy)));
  };
  scratch.keys.clear();
  for (size_t i = 0; i < candidates.size(); ++i) {
    scratch.keys.push_back(rank_key(distance(i), i));
  }
  // Reaching the mass is enough here, where top-p wants it exceeded.
  const double limit = std::nextafter(static_cast<double>(typical_p) * total, 0.0);
  const uint64_t last = last_needed(scratch.keys, candidates.p, 0.0, limit);
  keep_if(candidates, [&](size_t i) { return distance(i) <= last >> 32; });
}

}  // namespace llama_rt
