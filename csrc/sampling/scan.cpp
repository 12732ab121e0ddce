#include "sampling/scan.h"

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

}  // namespace

float clean(float score) {
  if (std::isnan(score)) return kSuppressed;
  return std::min(score, kLargest);
}

float maximum(const float* x, int64_t n) {
  Float4 top = all(kSuppressed);
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
  float min_value = kSuppressed;
  const auto cut = [&] {
    const auto kth = buffer.begin() + (k - 1);
    std::nth_element(buffer.begin(), kth, buffer.end(), std::greater<>());
    min_value = *kth;
    buffer.resize(keep_count);
  };
  for (int64_t i = 0; i < n; i += 16) {
    const Float4 floor = all(min_value);
    const Int4 higher = (load(x + i) > floor) | (load(x + i + 4) > floor) |
                        (load(x + i + 8) > floor) | (load(x + i + 12) > floor);
    if (!any(higher)) continue;
    for (int64_t j = i; j < i + 16; ++j) {
      if (x[j] > min_value) buffer.push_back(x[j]);
    }
    if (buffer.size() >= limit) cut();
  }
  if (buffer.size() < keep_count) return kSuppressed;  // fewer than k can be sampled at all
  cut();
  return min_value;
}

int64_t at_least(const float* x, int64_t n, float min_value, int32_t* ids) {
  const Float4 floor = all(min_value);
  int64_t count = 0;
  for (int64_t i = 0; i < n; i += 16) {
    const Int4 reached = (load(x + i) >= floor) | (load(x + i + 4) >= floor) |
                         (load(x + i + 8) >= floor) | (load(x + i + 12) >= floor);
    if (!any(reached)) continue;
    for (int64_t j = i; j < i + 16; ++j) {
      ids[count] = static_cast<int32_t>(j);
      count += x[j] >= min_value ? 1 : 0;
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
