// Inputs as packed kernels take them: 8-bit records, bf16, or padded float32.
#include <cstring>

#include "cpu/kernel_table.h"
#include "cpu/kernels/common/math.h"
#include "cpu/kernels/gemm/panel.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {
namespace {

inline int32_t sum_of_half(const int8_t* q) {
  int32_t sum = 0;
  for (int i = 0; i < kGroup / 2; ++i) sum += q[i];
  return sum;
}

// Scale = largest magnitude / 127, nearest even. Groups below ~1e-36 count as zeros (127 / amax
// would overflow); a NaN anywhere makes the scale NaN, so that it reaches the outputs.
inline void quantize_group(const float* x, Q8Record* record) {
  const F32x16 low = load(x), high = load(x + 16);
  const float amax = reduce_max(max(absolute(low), absolute(high)));
  const bool tiny = amax < 2e-36f;
  const F32x16 inverse = set1(tiny ? 0.0f : 127.0f / amax);
  store_i8(record->q, mul(low, inverse));
  store_i8(record->q + kGroup / 2, mul(high, inverse));
  const int32_t sum0 = sum_of_half(record->q), sum1 = sum_of_half(record->q + kGroup / 2);
  float d = tiny ? 0.0f : amax / 127.0f;
  if (any_nan(low) || any_nan(high)) d = __builtin_nanf("");
  record->d = d;
  record->scaled_sum = d * static_cast<float>(sum0 + sum1);
  record->sum8 = -8 * (sum0 + sum1);
  record->half_sum8[0] = -8 * sum0;
  record->half_sum8[1] = -8 * sum1;
  record->half_sum[0] = static_cast<int16_t>(sum0);
  record->half_sum[1] = static_cast<int16_t>(sum1);
}

void convert_q8(const float* x, int64_t k, std::byte* out) noexcept {
  Q8Record* records = reinterpret_cast<Q8Record*>(out);
  const int64_t groups = k / kGroup;
  for (int64_t g = 0; g < groups; ++g) quantize_group(x + g * kGroup, records + g);
  const int64_t used = groups * static_cast<int64_t>(sizeof(Q8Record));
  std::memset(out + used, 0, static_cast<size_t>(q8_row_bytes(k) - used));
}

void convert_f32(const float* x, int64_t k, std::byte* out) noexcept {
  const int64_t used = k * static_cast<int64_t>(sizeof(float));
  std::memcpy(out, x, static_cast<size_t>(used));
  std::memset(out + used, 0, static_cast<size_t>(f32_row_bytes(k) - used));
}

// Nearest even; NaN kept quiet.
inline uint16_t bf16_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 64u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

void convert_bf16(const float* x, int64_t k, std::byte* out) noexcept {
  uint16_t* to = reinterpret_cast<uint16_t*>(out);
  for (int64_t i = 0; i < k; ++i) to[i] = bf16_of(x[i]);
  const int64_t used = 2 * k;
  std::memset(out + used, 0, static_cast<size_t>(bf16_row_bytes(k) - used));
}

}  // namespace

constinit const Kernels kActivationFormats = [] {
  Kernels kernels;
  kernels.activations[static_cast<size_t>(Activation::kF32)] = {
      [](int64_t k) noexcept { return f32_row_bytes(k); }, convert_f32};
  kernels.activations[static_cast<size_t>(Activation::kBF16)] = {
      [](int64_t k) noexcept { return bf16_row_bytes(k); }, convert_bf16};
  kernels.activations[static_cast<size_t>(Activation::kQ8)] = {
      [](int64_t k) noexcept { return q8_row_bytes(k); }, convert_q8};
  return kernels;
}();

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
