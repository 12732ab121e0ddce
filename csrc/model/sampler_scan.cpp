#include "model/sampler_scan.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

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
// Second operand if one is NaN, as the SSE instructions have it.
Float4 larger(Float4 a, Float4 b) {
#if defined(__SSE2__)
  return _mm_max_ps(a, b);
#else
  return keep(a > b, a) + keep(!(a > b), b);
#endif
}
Float4 smaller(Float4 a, Float4 b) {
#if defined(__SSE2__)
  return _mm_min_ps(a, b);
#else
  return keep(a < b, a) + keep(!(a < b), b);
#endif
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

// 2^x for x <= 0: a polynomial for the fraction in [-1/2, 1/2] (minimax, 1e-7 relative with its
// roundings), then the whole part through the exponent bits, which reach 0 at -127.
Float4 exp2_negative(Float4 x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the integer in the low bits
  x = larger(x, all(-127.0f));
  const Float4 shifted = x + all(kRound);
  const Float4 f = x - (shifted - all(kRound));
  Float4 y = all(1.55946778e-4f);
  y = y * f + all(1.34066434e-3f);
  y = y * f + all(9.61769279e-3f);
  y = y * f + all(5.55031031e-2f);
  y = y * f + all(2.40226522e-1f);
  y = y * f + all(6.93147242e-1f);
  y = y * f + all(1.0f);
  const Int4 power = (reinterpret_cast<Int4>(shifted) + all(127)) << 23;
  return y * reinterpret_cast<Float4>(power);
}

constexpr float kLog2E = 1.44269504f;
constexpr float kLargest = std::numeric_limits<float>::max();

}  // namespace

float clean(float score) {
  if (std::isnan(score)) return kBarred;
  return std::min(score, kLargest);
}

float copy_clean(std::span<const float> in, float* out) {
  const auto n = static_cast<int64_t>(in.size());
  Float4 top = all(kBarred);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Float4 v = smaller(larger(load(in.data() + i), all(kBarred)), all(kLargest));
    top = larger(v, top);
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
    top = larger(load(x + i), top);
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
  const Float4 base = all(top), factor = all(std::min(scale * kLog2E, kLargest));
  Mass mass;
  for (int64_t block = 0; block < n; block += kPad) {
    Float4 total = all(0.0f), above[kLevels] = {};
    for (int64_t i = block; i < block + kPad; i += kLanes) {
      const Float4 v = exp2_negative((load(x + i) - base) * factor);
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
    for (int64_t i = block; i < block + kPad; i += kLanes) {
      part += exp2_negative((load(x + i) - all(top)) * all(kLog2E));
    }
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
