// Passes over the scores of a whole vocabulary in plain four-lane vectors. The costly ones are
// kernels of the ISA level (core/scan.h); the sampling rules belong to sampler.
#pragma once

#include <cstdint>
#include <vector>

#include "core/scan.h"

namespace llama_rt::scan {

// NaN becomes kSuppressed and +infinity the largest float, so that differences stay meaningful.
float clean(float score);

// Largest of padded scores, and the first index that holds `value` (n if there is none).
float maximum(const float* x, int64_t n);
int64_t first_equal(const float* x, int64_t n, float value);

// Value of the k-th largest of n padded scores, 1 <= k <= n. `buffer` is scratch that keeps its
// capacity; expected time is one pass, whatever the order of the scores.
float kth_largest(const float* x, int64_t n, int64_t k, std::vector<float>& buffer);

// Writes the indices with x[i] >= min_value, ascending, to `ids` (room for n) and returns how many;
// n padded, `min_value` above what the padding holds.
int64_t at_least(const float* x, int64_t n, float min_value, int32_t* ids);

// First index where the running sum of p exceeds `target`; if rounding leaves none, the last with
// p > 0. n padded.
int64_t find_sum(const float* p, int64_t n, double target);

}  // namespace llama_rt::scan
