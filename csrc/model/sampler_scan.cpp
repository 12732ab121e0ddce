#include "model/sampler_scan.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

namespace llama_rt::scan {
namespace {

// Four lanes: what every 64-bit processor has without being asked for more.
using Float4 = float __attribute__((vector_size(16)));
using Int4 = int32_t __attribute__((vector_size(16)));
using Long2 = int64_t __attribute__((vector_size(16)));
constexpr int64_t kLanes = 4;

Float4 load(const float* from) {
  Float4 v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}
void store(float* to, Float4 v) { std::memcpy(to, &v, sizeof(v)); }
Float4 all(float x) { return Float4{x, x, x, x}; }
Int4 all(int32_t x) { return Int4{x, x, x, x}; }

Float4 keep(Int4 mask, Float4 v) {
  return reinterpret_cast<Float4>(mask & reinterpret_cast<Int4>(v));
}
Float4 choose(Int4 mask, Float4 yes, Float4 no) {
  return reinterpret_cast<Float4>((mask & reinterpret_cast<Int4>(yes)) |
                                  (~mask & reinterpret_cast<Int4>(no)));
}
bool any(Int4 mask) {
  const auto halves = reinterpret_cast<Long2>(mask);
  return (halves[0] | halves[1]) != 0;
}
double sum(Float4 v) {
  return (static_cast<double>(v[0]) + static_cast<double>(v[1])) +
         (static_cast<double>(v[2]) + static_cast<double>(v[3]));
}
float largest(Float4 v) { return std::max(std::max(v[0], v[1]), std::max(v[2], v[3])); }

// exp(x) for x <= 0: n = round(x / ln 2), a polynomial for exp(x - n ln 2), then 2^n through the
// exponent bits. Coefficients: Cephes expf (S. Moshier). ln 2 is split so that n * high is exact.
Float4 exp_negative(Float4 x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the integer in the low bits
  const Int4 alive = x > all(-87.0f);
  x = keep(alive, x);
  const Float4 shifted = x * all(1.44269504f) + all(kRound);
  const Float4 n = shifted - all(kRound);
  const Float4 r = (x - n * all(0.693359375f)) - n * all(-2.12194440e-4f);
  Float4 y = all(1.9875691500e-4f);
  y = y * r + all(1.3981999507e-3f);
  y = y * r + all(8.3334519073e-3f);
  y = y * r + all(4.1665795894e-2f);
  y = y * r + all(1.6666665459e-1f);
  y = y * r + all(5.0000001201e-1f);
  y = y * r * r + r + all(1.0f);
  const Int4 power = (reinterpret_cast<Int4>(shifted) + all(127)) << 23;
  return keep(alive, y * reinterpret_cast<Float4>(power));
}

// kBarred - kBarred is NaN; the comparison in exp_negative turns that, too, into 0.
Float4 probability(const float* x, float top, float scale) {
  return exp_negative((load(x) - all(top)) * all(scale));
}

}  // namespace

float clean(float score) {
  if (std::isnan(score)) return kBarred;
  return std::min(score, std::numeric_limits<float>::max());
}

float copy_clean(std::span<const float> in, float* out) {
  const auto n = static_cast<int64_t>(in.size());
  const Float4 cap = all(std::numeric_limits<float>::max());
  Float4 top = all(kBarred);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    Float4 v = load(in.data() + i);
    v = choose(v == v, v, all(kBarred));
    v = choose(v < cap, v, cap);
    top = choose(v > top, v, top);
    store(out + i, v);
  }
  float rest = largest(top);
  for (; i < n; ++i) {
    out[i] = clean(in[static_cast<size_t>(i)]);
    rest = std::max(rest, out[i]);
  }
  std::fill(out + n, out + padded(n), kBarred);
  return rest;
}

float maximum(const float* x, int64_t n) {
  Float4 top = all(kBarred);
  for (int64_t i = 0; i < n; i += kLanes) {
    const Float4 v = load(x + i);
    top = choose(v > top, v, top);
  }
  return largest(top);
}

int64_t first_equal(const float* x, int64_t n, float value) {
  for (int64_t i = 0; i < n; i += kLanes) {
    if (!any(load(x + i) == all(value))) continue;
    return std::find(x + i, x + n, value) - x;
  }
  return n;
}

Mass exp_all(const float* x, int64_t n, float top, float scale, float* p) {
  Mass mass;
  for (int64_t block = 0; block < n; block += kPad) {
    Float4 total = all(0.0f);
    Float4 above[kLevels] = {total, total, total};
    for (int64_t i = block; i < block + kPad; i += kLanes) {
      const Float4 v = probability(x + i, top, scale);
      store(p + i, v);
      total += v;
      for (int j = 0; j < kLevels; ++j) above[j] += keep(v >= all(kLevel[j]), v);
    }
    mass.total += sum(total);
    for (int j = 0; j < kLevels; ++j) mass.above[j] += sum(above[j]);
  }
  return mass;
}

double log_sum_exp(const float* x, int64_t n, float top) {
  double total = 0;
  for (int64_t block = 0; block < n; block += kPad) {
    Float4 part = all(0.0f);
    for (int64_t i = block; i < block + kPad; i += kLanes) part += probability(x + i, top, 1.0f);
    total += sum(part);
  }
  return std::log(total);
}

// The buffer holds values above a threshold that only rises: whenever it is full it is cut to its
// k largest. Blocks without a value above the threshold cost four comparisons per 16 scores.
float kth_largest(const float* x, int64_t n, int64_t k, std::vector<float>& buffer) {
  const auto keep_count = static_cast<size_t>(k);
  const size_t limit = 2 * keep_count + 256;
  buffer.clear();
  buffer.reserve(limit + 16);
  float least = kBarred;
  const auto cut = [&] {
    const auto kth = buffer.begin() + (k - 1);
    std::nth_element(buffer.begin(), kth, buffer.end(), std::greater<>());
    least = *kth;
    buffer.resize(keep_count);
  };
  for (int64_t i = 0; i < n; i += 16) {
    const Float4 floor = all(least);
    const Int4 higher = (load(x + i) > floor) | (load(x + i + 4) > floor) |
                        (load(x + i + 8) > floor) | (load(x + i + 12) > floor);
    if (!any(higher)) continue;
    for (int64_t j = i; j < i + 16; ++j) {
      if (x[j] > least) buffer.push_back(x[j]);
    }
    if (buffer.size() >= limit) cut();
  }
  if (buffer.size() < keep_count) return kBarred;  // fewer than k can be drawn at all
  cut();
  return least;
}

int64_t at_least(const float* x, int64_t n, float least, int32_t* ids) {
  const Float4 floor = all(least);
  int64_t count = 0;
  for (int64_t i = 0; i < n; i += 16) {
    const Int4 reached = (load(x + i) >= floor) | (load(x + i + 4) >= floor) |
                         (load(x + i + 8) >= floor) | (load(x + i + 12) >= floor);
    if (!any(reached)) continue;
    for (int64_t j = i; j < i + 16; ++j) {
      ids[count] = static_cast<int32_t>(j);
      count += x[j] >= least ? 1 : 0;
    }
  }
  return count;
}

int64_t find_sum(const float* p, int64_t n, double target) {
  double before = 0;
  int64_t block = 0;
  for (; block < n; block += kPad) {
    Float4 part = all(0.0f);
    for (int64_t i = block; i < block + kPad; i += kLanes) part += load(p + i);
    if (before + sum(part) > target) break;
    before += sum(part);
  }
  int64_t last = std::min(block + kPad, n);  // nothing from here on
  for (int64_t i = block; i < last; ++i) {
    before += static_cast<double>(p[i]);
    if (before > target) return i;
  }
  do --last;
  while (last > 0 && !(p[last] > 0));
  return last;
}

}  // namespace llama_rt::scan
