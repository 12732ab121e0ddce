// How one head's keys and values lie in a page, one struct per KvType: keys [e][page] so that a
// vector holds sixteen positions of one feature, values [page][padded e] so that it holds sixteen
// features of one position. The 8-bit type keeps one float scale per position and 32 features.
#pragma once

#include "cpu/kernel_table.h"
#include "cpu/kernels/common/math.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {

inline constexpr int64_t kScaleGroup = 32;
inline int64_t scale_groups(int64_t e) { return (e + kScaleGroup - 1) / kScaleGroup; }

// Float types: T is the stored element.
template <class T, F32x16 (*kLoad)(const T*), void (*kStore)(T*, F32x16)>
struct FloatKv {
  static constexpr bool kScaled = false;
  static constexpr int64_t kBytes = sizeof(T);  // of an element

  static int64_t head_bytes(int64_t e) {
    return kPageTokens * (e + padded(e)) * static_cast<int64_t>(sizeof(T));
  }
  static F32x16 key(const std::byte* head, int64_t feature, int64_t position) {
    return kLoad(reinterpret_cast<const T*>(head) + feature * kPageTokens + position);
  }
  static F32x16 value(const std::byte* head, int64_t e, int64_t position, int64_t feature) {
    const T* values = reinterpret_cast<const T*>(head) + e * kPageTokens;
    return kLoad(values + position * padded(e) + feature);
  }

  static void put(const StoreKvTask& t) {
    T* k = reinterpret_cast<T*>(t.head) + t.slot;
    T* v = reinterpret_cast<T*>(t.head) + t.e * kPageTokens + t.slot * padded(t.e);
    for (int64_t f = 0; f < t.e; f += 16) {
      const int64_t count = t.e - f < 16 ? t.e - f : 16;
      T rounded[16];
      kStore(rounded, count == 16 ? load(t.k + f) : load_partial(t.k + f, count));
      for (int64_t i = 0; i < count; ++i) k[(f + i) * kPageTokens] = rounded[i];
      kStore(v + f, count == 16 ? load(t.v + f) : load_partial(t.v + f, count));
    }
  }
};

using KvF32 = FloatKv<float, load, store>;
using KvF16 = FloatKv<uint16_t, load_f16, store_f16>;
using KvBF16 = FloatKv<uint16_t, load_bf16, store_bf16>;

// int8 keys [e][page], values [page][padded e], then the scales of keys and those of values, each
// [groups][page].
struct KvQ8 {
  static constexpr bool kScaled = true;
  static constexpr int64_t kBytes = 1;

  static int64_t code_bytes(int64_t e) { return kPageTokens * (e + padded(e)); }
  static int64_t head_bytes(int64_t e) {
    return code_bytes(e) + 2 * kPageTokens * scale_groups(e) * static_cast<int64_t>(sizeof(float));
  }
  static const float* key_scales(const std::byte* head, int64_t e) {
    return reinterpret_cast<const float*>(head + code_bytes(e));
  }
  static const float* value_scales(const std::byte* head, int64_t e) {
    return key_scales(head, e) + scale_groups(e) * kPageTokens;
  }
  static F32x16 key(const std::byte* head, int64_t feature, int64_t position) {
    return load_i8(reinterpret_cast<const int8_t*>(head) + feature * kPageTokens + position);
  }
  static F32x16 value(const std::byte* head, int64_t e, int64_t position, int64_t feature) {
    const auto* values = reinterpret_cast<const int8_t*>(head) + e * kPageTokens;
    return load_i8(values + position * padded(e) + feature);
  }

  // One group of at most 32 features: codes with the given stride, and their scale, which is NaN
  // where a feature is not finite.
  static float round_group(const float* x, int64_t count, int8_t* codes, int64_t stride) {
    const F32x16 low = load_partial(x, count < 16 ? count : 16);
    const F32x16 high = count > 16 ? load_partial(x + 16, count - 16) : zero();
    const F32x16 largest_vector = max(max(low, sub(zero(), low)), max(high, sub(zero(), high)));
    const float wrong = reduce_add(add(sub(low, low), sub(high, high)));
    const float scale = reduce_max(largest_vector) / 127.0f + wrong;
    const F32x16 inverse = set1(scale > 1e-36f ? 1.0f / scale : 0.0f);
    float rounded[kScaleGroup];
    store(rounded, max(round_nearest(mul(low, inverse)), set1(-127.0f)));  // of NaN: -127
    store(rounded + 16, max(round_nearest(mul(high, inverse)), set1(-127.0f)));
    for (int64_t i = 0; i < count; ++i) codes[i * stride] = static_cast<int8_t>(rounded[i]);
    return scale;
  }
  static void put(const StoreKvTask& t) {
    const int64_t groups = scale_groups(t.e);
    auto* k = reinterpret_cast<int8_t*>(t.head) + t.slot;
    auto* v = reinterpret_cast<int8_t*>(t.head) + t.e * kPageTokens + t.slot * padded(t.e);
    auto* k_scale = reinterpret_cast<float*>(t.head + code_bytes(t.e));
    float* v_scale = k_scale + groups * kPageTokens;
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t first = g * kScaleGroup;
      const int64_t count = t.e - first < kScaleGroup ? t.e - first : kScaleGroup;
      k_scale[g * kPageTokens + t.slot] =
          round_group(t.k + first, count, k + first * kPageTokens, kPageTokens);
      v_scale[g * kPageTokens + t.slot] = round_group(t.v + first, count, v + first, 1);
    }
    for (int64_t i = t.e; i < padded(t.e); ++i) v[i] = 0;
  }
};

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
