// How one head's keys and values lie in a page, one struct per KvType: keys [e][page] so that a
// vector holds sixteen positions of one feature, values [page][padded e] so that it holds sixteen
// features of one position. The 8-bit type keeps one float scale per position and 32 features.
#pragma once

#include "cpu/kernels.h"
#include "generic/math.h"

namespace llama_rt::cpu::LLAMA_RT_TIER {

#include "core/encode.inl"

inline constexpr int64_t kScaleGroup = 32;
inline int64_t scale_groups(int64_t e) { return (e + kScaleGroup - 1) / kScaleGroup; }

// Float types: T is the stored element.
template <class T, F32x16 (*kLoad)(const T*), T (*kRound)(float)>
struct FloatKv {
  static constexpr bool kScaled = false;

  static int64_t head_bytes(int64_t e) {
    return kPageTokens * (e + padded(e)) * static_cast<int64_t>(sizeof(T));
  }
  static T* keys(std::byte* head) { return reinterpret_cast<T*>(head); }
  static T* values(std::byte* head, int64_t e) { return keys(head) + e * kPageTokens; }

  static F32x16 key(const std::byte* head, int64_t feature, int64_t position) {
    return kLoad(reinterpret_cast<const T*>(head) + feature * kPageTokens + position);
  }
  static F32x16 value(const std::byte* head, int64_t e, int64_t position, int64_t feature) {
    const T* values = reinterpret_cast<const T*>(head) + e * kPageTokens;
    return kLoad(values + position * padded(e) + feature);
  }
  static F32x16 key_scales(const std::byte*, int64_t, int64_t, int64_t) { return set1(1.0f); }
  static float value_scale(const std::byte*, int64_t, int64_t, int64_t) { return 1.0f; }

  static void put(const StoreKvTask& t) {
    T* k = keys(t.head) + t.slot;
    T* v = values(t.head, t.e) + t.slot * padded(t.e);
    for (int64_t i = 0; i < t.e; ++i) {
      k[i * kPageTokens] = kRound(t.k[i]);
      v[i] = kRound(t.v[i]);
    }
    for (int64_t i = t.e; i < padded(t.e); ++i) v[i] = T{};
  }
};

inline float keep(float a) { return a; }
using KvF32 = FloatKv<float, load, keep>;
using KvF16 = FloatKv<uint16_t, load_f16, float_to_half>;
using KvBF16 = FloatKv<uint16_t, load_bf16, float_to_bf16>;

// int8 keys [e][page], values [page][padded e], then key scales [groups][page], value scales
// [page][groups].
struct KvQ8 {
  static constexpr bool kScaled = true;

  static int64_t code_bytes(int64_t e) { return kPageTokens * (e + padded(e)); }
  static int64_t head_bytes(int64_t e) {
    return code_bytes(e) + 2 * kPageTokens * scale_groups(e) * static_cast<int64_t>(sizeof(float));
  }
  static const float* scales(const std::byte* head, int64_t e) {
    return reinterpret_cast<const float*>(head + code_bytes(e));
  }
  static F32x16 key(const std::byte* head, int64_t feature, int64_t position) {
    return load_i8(reinterpret_cast<const int8_t*>(head) + feature * kPageTokens + position);
  }
  static F32x16 value(const std::byte* head, int64_t e, int64_t position, int64_t feature) {
    const auto* values = reinterpret_cast<const int8_t*>(head) + e * kPageTokens;
    return load_i8(values + position * padded(e) + feature);
  }
  static F32x16 key_scales(const std::byte* head, int64_t e, int64_t group, int64_t position) {
    return load(scales(head, e) + group * kPageTokens + position);
  }
  static float value_scale(const std::byte* head, int64_t e, int64_t position, int64_t group) {
    const int64_t groups = scale_groups(e);
    return scales(head, e)[groups * kPageTokens + position * groups + group];
  }

  // One group of at most 32 features: codes with the given stride, and their scale.
  static float round_group(const float* x, int64_t count, int8_t* codes, int64_t stride) {
    float largest = 0.0f;
    for (int64_t i = 0; i < count; ++i) {
      const float a = x[i] < 0 ? -x[i] : x[i];
      if (a > largest) largest = a;
    }
    const float scale = largest / 127.0f;
    const float inverse = scale > 0 ? 1.0f / scale : 0.0f;
    for (int64_t i = 0; i < count; ++i) {
      const float q = x[i] * inverse;
      codes[i * stride] = static_cast<int8_t>(truncate_to(q + (q < 0 ? -0.5f : 0.5f), -127, 127));
    }
    return scale;
  }
  static void put(const StoreKvTask& t) {
    const int64_t groups = scale_groups(t.e);
    auto* k = reinterpret_cast<int8_t*>(t.head) + t.slot;
    auto* v = reinterpret_cast<int8_t*>(t.head) + t.e * kPageTokens + t.slot * padded(t.e);
    auto* k_scale = reinterpret_cast<float*>(t.head + code_bytes(t.e));
    float* v_scale = k_scale + groups * kPageTokens + t.slot * groups;
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t first = g * kScaleGroup;
      const int64_t count = t.e - first < kScaleGroup ? t.e - first : kScaleGroup;
      k_scale[g * kPageTokens + t.slot] =
          round_group(t.k + first, count, k + first * kPageTokens, kPageTokens);
      v_scale[g] = round_group(t.v + first, count, v + first, 1);
    }
    for (int64_t i = t.e; i < padded(t.e); ++i) v[i] = 0;
  }
};

}  // namespace llama_rt::cpu::LLAMA_RT_TIER
