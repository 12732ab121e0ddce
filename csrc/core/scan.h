// Passes over the scores of a whole vocabulary whose cost shows in a sampled token. Each ISA level
// compiles them once more (cpu/kernels/common/scan.cpp); sums are added in one order everywhere, so
// that the same seed gives the same tokens on every processor.
#pragma once

#include <cstdint>
#include <limits>

namespace llama_rt {
namespace scan {

// Arrays that the passes run over are padded with kSuppressed to a multiple of kPad.
inline constexpr int64_t kPad = 128;
constexpr int64_t padded(int64_t n) { return (n + kPad - 1) / kPad * kPad; }

// The score of a token that cannot be sampled, and the largest that one can have.
inline constexpr float kSuppressed = -std::numeric_limits<float>::infinity();
inline constexpr float kLargest = std::numeric_limits<float>::max();

// Levels below the largest probability at which `exp` adds up what lies above.
inline constexpr int kLevels = 2;
inline constexpr float kLevel[kLevels] = {0x1p-7f, 0x1p-12f};

struct Mass {
  double total = 0;
  double above[kLevels] = {};  // sum of the p >= kLevel[j]
};

}  // namespace scan

struct ScanKernels {
  // out[i] = in[i], with kSuppressed for NaN and kLargest for +infinity, padding included; returns
  // the largest. `out` holds padded(n).
  float (*copy_clean)(const float* in, int64_t n, float* out) noexcept = nullptr;
  // p[i] = exp((x[i] - max) * scale) for x <= max, n padded; 1e-7 relative, besides the rounding of
  // the exponent, and 0 below 2^-126. p may be x.
  void (*exp)(const float* x, int64_t n, float max, float scale, float* p,
              scan::Mass* mass) noexcept = nullptr;
  // Sum of exp(x[i] - max), without storing anything; n padded.
  double (*sum_exp)(const float* x, int64_t n, float max) noexcept = nullptr;
};

}  // namespace llama_rt
