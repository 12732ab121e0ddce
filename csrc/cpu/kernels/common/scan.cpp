// The sampler's passes over a vocabulary (core/scan.h). Sixteen lanes as a vector of the
// compiler's, which becomes as many registers as the level needs; sums are added in the same order
// on all.
#include <cstring>

#include "cpu/kernel_table.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {
namespace {

using scan::kSuppressed, scan::kLargest, scan::kLevel, scan::kLevels, scan::kPad;

using Float16 = float __attribute__((vector_size(64)));
using Int16 = int32_t __attribute__((vector_size(64)));
using Double16 = double __attribute__((vector_size(128)));
constexpr int64_t kLanes = 16;

// 2^x for x <= 0: a polynomial for the fraction in [-1/2, 1/2] (minimax, 1e-7 relative with its
// roundings), then the whole part through the exponent bits, which reach 0 at -127.
inline void exp2_negative(Float16& x) {
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

inline void scaled_exp2(const float* x, float max, float factor, Float16& v) {
  std::memcpy(&v, x, sizeof(v));
  v = (v - max) * factor;
  exp2_negative(v);
}

inline double sum_of(const Double16& v) {
  double total = 0;
  for (int64_t i = 0; i < kLanes; ++i) total += v[i];
  return total;
}

constexpr float kLog2E = 1.44269504f;

float copy_clean(const float* in, int64_t n, float* out) noexcept {
  Float16 v, tops = Float16{} + kSuppressed;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    std::memcpy(&v, in + i, sizeof(v));
    v = v > kSuppressed ? v : Float16{} + kSuppressed;  // NaN too
    v = v < kLargest ? v : Float16{} + kLargest;
    tops = v > tops ? v : tops;
    std::memcpy(out + i, &v, sizeof(v));
  }
  float top = kSuppressed;
  for (int64_t lane = 0; lane < kLanes; ++lane) top = tops[lane] > top ? tops[lane] : top;
  for (; i < n; ++i) {
    const float score = in[i] > kSuppressed ? in[i] : kSuppressed;
    out[i] = score < kLargest ? score : kLargest;
    top = out[i] > top ? out[i] : top;
  }
  for (; i < scan::padded(n); ++i) out[i] = kSuppressed;
  return top;
}

void exp_scaled(const float* x, int64_t n, float max, float scale, float* p,
                scan::Mass* mass) noexcept {
  const float factor = scale * kLog2E < kLargest ? scale * kLog2E : kLargest;
  Double16 sum{}, sum_above[kLevels] = {};
  for (int64_t block = 0; block < n; block += kPad) {
    Float16 v, total{}, above[kLevels] = {};
    for (int64_t i = block; i < block + kPad; i += kLanes) {
      scaled_exp2(x + i, max, factor, v);
      std::memcpy(p + i, &v, sizeof(v));
      total += v;
      for (int j = 0; j < kLevels; ++j) above[j] += v >= kLevel[j] ? v : Float16{};
    }
    sum += __builtin_convertvector(total, Double16);
    for (int j = 0; j < kLevels; ++j) sum_above[j] += __builtin_convertvector(above[j], Double16);
  }
  mass->total = sum_of(sum);
  for (int j = 0; j < kLevels; ++j) mass->above[j] = sum_of(sum_above[j]);
}

double sum_exp(const float* x, int64_t n, float max) noexcept {
  Double16 total{};
  for (int64_t block = 0; block < n; block += kPad) {
    Float16 v, part{};
    for (int64_t i = block; i < block + kPad; i += kLanes) {
      scaled_exp2(x + i, max, kLog2E, v);
      part += v;
    }
    total += __builtin_convertvector(part, Double16);
  }
  return sum_of(total);
}

}  // namespace

constinit const Kernels kScan = [] {
  Kernels kernels;
  kernels.scan = {copy_clean, exp_scaled, sum_exp};
  return kernels;
}();

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
