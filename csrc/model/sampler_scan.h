// Passes over a whole vocabulary, a few floats at a time: what makes a draw cheap.
// Owns the arithmetic; the sampling rules belong to sampler.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace llama_rt::scan {

// Arrays that the passes run over are padded with kBarred to a multiple of kPad.
constexpr int64_t kPad = 128;
constexpr int64_t padded(int64_t n) { return (n + kPad - 1) / kPad * kPad; }

// The score of a token that cannot be drawn.
constexpr float kBarred = -std::numeric_limits<float>::infinity();

// NaN becomes kBarred and +infinity the largest float, so that differences stay meaningful.
float clean(float score);

// out[i] = clean(in[i]), padding included; returns the largest. out holds padded(in.size()).
float copy_clean(std::span<const float> in, float* out);

// Largest of padded scores, and the first index that holds `value` (n if there is none).
float maximum(const float* x, int64_t n);
int64_t first_equal(const float* x, int64_t n, float value);

// Levels below the largest probability at which exp_all adds up what lies above.
constexpr int kLevels = 2;
constexpr float kLevel[kLevels] = {0x1p-7f, 0x1p-12f};

struct Mass {
  double total = 0;
  double above[kLevels] = {};  // sum of the p >= kLevel[j]
};

// p[i] = exp((x[i] - top) * scale) for x <= top, n padded; 1e-7 relative, besides the rounding of
// the exponent, and 0 below 2^-126. p may be x.
Mass exp_all(const float* x, int64_t n, float top, float scale, float* p);

// log(sum of exp(x[i] - top)), without storing anything; n padded.
double log_sum_exp(const float* x, int64_t n, float top);

// Value of the k-th largest of n padded scores, 1 <= k <= n. `buffer` is scratch that keeps its
// capacity; expected time is one pass, whatever the order of the scores.
float kth_largest(const float* x, int64_t n, int64_t k, std::vector<float>& buffer);

// Writes the indices with x[i] >= least, ascending, to `ids` (room for n) and returns how many;
// n padded, `least` above what the padding holds.
int64_t at_least(const float* x, int64_t n, float least, int32_t* ids);

// First index where the running sum of p exceeds `target`; if rounding leaves none, the last with
// p > 0. n padded.
int64_t find_sum(const float* p, int64_t n, double target);

}  // namespace llama_rt::scan
