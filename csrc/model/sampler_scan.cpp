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
Float4 all(float x) { return Float4{x, x, x, x}; }

bool any(Int4 mask) {
  const auto halves = reinterpret_cast<Long2>(mask);
  return (halves[0] | halves[1]) != 0;
}
double sum(Float4 v) {
  return (static_cast<double>(v[0]) + static_cast<double>(v[1])) +
         (static_cast<double>(v[2]) + static_cast<double>(v[3]));
}
float largest(Float4 v) { return std::max(std::max(v[0], v[1]), std::max(v[2], v[3])); }

// The costly passes take as much of a register as the processor has. Sixteen lanes are added up in
// the same order on all of them: the same seed draws the same tokens.
#define FOR_EVERY_WIDTH __attribute__((target_clones("default", "avx2", "avx512f")))
#define INLINE inline __attribute__((always_inline))

using Float16 = float __attribute__((vector_size(64)));
using Int16 = int32_t __attribute__((vector_size(64)));
using Double16 = double __attribute__((vector_size(128)));
constexpr int64_t kWide = 16;

// 2^x for x <= 0: a polynomial for the fraction in [-1/2, 1/2] (minimax, 1e-7 relative with its
// roundings), then the whole part through the exponent bits, which reach 0 at -127.
INLINE void exp2_negative(Float16& x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the integer in the low bits
  x = x > -127.0f ? x : Float16{} - 127.0f;
  const Float16 shifted = x + kRound;
  const Float16 f = x - (shifted - kRound);
  Float16 y = f * 1.55946778e-4f + 1.34066434e-3f;
  y = y * f + 9.61769279e-3f;
  y = y * f + 5.55031031e-2f;
  y = y * f + 2.40226522e-1f;
  y = y * f + 6.93147242e-1f;
  y = y * f + 1.0f;
  const Int16 power = (reinterpret_cast<Int16>(shifted) + 127) << 23;
  x = y * reinterpret_cast<Float16>(power);
}

INLINE void scaled_exp2(const float* x, float top, float factor, Float16& v) {
  std::memcpy(&v, x, sizeof(v));
  v = (v - top) * factor;
  exp2_negative(v);
}

INLINE double sum_of(const Double16& v) {
  double total = 0;
  for (int64_t i = 0; i < kWide; ++i) total += v[i];
  return total;
}

constexpr float kLog2E = 1.44269504f;
constexpr float kLargest = std::numeric_limits<float>::max();

FOR_EVERY_WIDTH float copy_clean_wide(const float* in, int64_t n, float* out) {
  Float16 v, tops = Float16{} + kBarred;
  int64_t i = 0;
  for (; i + kWide <= n; i += kWide) {
    std::memcpy(&v, in + i, sizeof(v));
    v = v > kBarred ? v : Float16{} + kBarred;  // NaN too
    v = v < kLargest ? v : Float16{} + kLargest;
    tops = v > tops ? v : tops;
    std::memcpy(out + i, &v, sizeof(v));
  }
  float top = kBarred;
  for (int64_t lane = 0; lane < kWide; ++lane) top = std::max(top, tops[lane]);
  for (; i < n; ++i) {
    out[i] = clean(in[i]);
    top = std::max(top, out[i]);
  }
  std::fill(out + n, out + padded(n), kBarred);
  return top;
}

FOR_EVERY_WIDTH Mass exp_all_wide(const float* x, int64_t n, float top, float scale, float* p) {
  const float factor = std::min(scale * kLog2E, kLargest);
  Double16 sum{}, sum_above[kLevels] = {};
  for (int64_t block = 0; block < n; block += kPad) {
    Float16 v, total{}, above[kLevels] = {};
    for (int64_t i = block; i < block + kPad; i += kWide) {
      scaled_exp2(x + i, top, factor, v);
      std::memcpy(p + i, &v, sizeof(v));
      total += v;
      for (int j = 0; j < kLevels; ++j) above[j] += v >= kLevel[j] ? v : Float16{};
    }
    sum += __builtin_convertvector(total, Double16);
    for (int j = 0; j < kLevels; ++j) sum_above[j] += __builtin_convertvector(above[j], Double16);
  }
  Mass mass;
  mass.total = sum_of(sum);
  for (int j = 0; j < kLevels; ++j) mass.above[j] = sum_of(sum_above[j]);
  return mass;
}

FOR_EVERY_WIDTH double log_sum_exp_wide(const float* x, int64_t n, float top) {
  Double16 total{};
  for (int64_t block = 0; block < n; block += kPad) {
    Float16 v, part{};
    for (int64_t i = block; i < block + kPad; i += kWide) {
      scaled_exp2(x + i, top, kLog2E, v);
      part += v;
    }
    total += __builtin_convertvector(part, Double16);
  }
  return std::log(sum_of(total));
}

}  // namespace

float clean(float score) {
  if (std::isnan(score)) return kBarred;
  return std::min(score, kLargest);
}

float copy_clean(std::span<const float> in, float* out) {
  return copy_clean_wide(in.data(), static_cast<int64_t>(in.size()), out);
}

Mass exp_all(const float* x, int64_t n, float top, float scale, float* p) {
  return exp_all_wide(x, n, top, scale, p);
}

double log_sum_exp(const float* x, int64_t n, float top) { return log_sum_exp_wide(x, n, top); }

float maximum(const float* x, int64_t n) {
  Float4 top = all(kBarred);
  for (int64_t i = 0; i < n; i += kLanes) {
    const Float4 v = load(x + i);
    top = v > top ? v : top;
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
