// Inputs as packed kernels take them: 8-bit records, bf16, or padded float32.
#include <immintrin.h>

#include <cstring>

#include "cpu/levels.h"
#include "cpu/tiers/generic/panel.h"

namespace llama_rt::cpu::LLAMA_RT_TIER {
namespace {

inline float max_lane(__m256 a) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

// Sum of 16 signed bytes.
inline int32_t sum_bytes(__m128i q) {
  const __m128i pairs = _mm_maddubs_epi16(_mm_set1_epi8(1), q);
  __m128i s = _mm_madd_epi16(pairs, _mm_set1_epi16(1));
  s = _mm_add_epi32(s, _mm_unpackhi_epi64(s, s));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 1)));
}

// Scale = largest magnitude / 127, nearest even. Groups below ~1e-36 count as zeros (127 / amax
// would overflow); a NaN anywhere makes the scale NaN, so that it reaches the outputs.
inline void quantize_group(const float* x, Q8Record* record) {
  const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  __m256 v[4], most = _mm256_setzero_ps(), ordered = most;
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm256_loadu_ps(x + 8 * i);
    most = _mm256_max_ps(most, _mm256_and_ps(v[i], magnitude));
    ordered = _mm256_or_ps(ordered, _mm256_cmp_ps(v[i], v[i], _CMP_UNORD_Q));
  }
  const float amax = max_lane(most);
  const bool tiny = amax < 2e-36f;
  const __m256 inverse = _mm256_set1_ps(tiny ? 0.0f : 127.0f / amax);
  __m256i w[4];
  for (int i = 0; i < 4; ++i) w[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
  const __m256i words0 = _mm256_packs_epi32(w[0], w[1]), words1 = _mm256_packs_epi32(w[2], w[3]);
  const __m256i q = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(words0, words1),
                                                _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(record->q), q);
  const int32_t sum0 = sum_bytes(_mm256_castsi256_si128(q));
  const int32_t sum1 = sum_bytes(_mm256_extracti128_si256(q, 1));
  float d = tiny ? 0.0f : amax / 127.0f;
  if (_mm256_movemask_ps(ordered)) d = __builtin_nanf("");
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

}  // namespace llama_rt::cpu::LLAMA_RT_TIER
