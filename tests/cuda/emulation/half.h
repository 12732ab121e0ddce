// What cuda_fp16.h and cuda_bf16.h share: a 16-bit float as its bits, converted through float, so
// that every operation is rounded once from the exact float or double result.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "cuda_runtime.h"

namespace emulation {

struct HalfFormat {
  static float decode(uint16_t bits) {
    _Float16 h;
    std::memcpy(&h, &bits, 2);
    return static_cast<float>(h);
  }
  static uint16_t encode(double x) {
    const auto h = static_cast<_Float16>(x);
    uint16_t bits;
    std::memcpy(&bits, &h, 2);
    return bits;
  }
};

struct BrainFormat {
  static float decode(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }
  static uint16_t encode(double exact) {
    // To float by rounding to odd, so that the second rounding is the only one that counts.
    auto x = static_cast<float>(exact);
    auto bits = std::bit_cast<uint32_t>(x);
    if (x != x) return 0x7fff;
    if (static_cast<double>(x) != exact && std::isfinite(x)) {
      if (std::fabs(static_cast<double>(x)) > std::fabs(exact)) --bits;
      bits |= 1;
    }
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
};

}  // namespace emulation

// `T` and its pair `T2` of a format, with the operators of both.
#define EMULATION_HALF(T, T2, Format)                                                            \
  struct T##_raw {                                                                               \
    unsigned short x;                                                                            \
  };                                                                                             \
  struct T {                                                                                     \
    unsigned short bits;                                                                         \
    T() = default;                                                                               \
    T(T##_raw raw) : bits(raw.x) {}                                                              \
    T(float x) : bits(emulation::Format::encode(x)) {}                                           \
    T(double x) : bits(emulation::Format::encode(x)) {}                                          \
    T(int x) : bits(emulation::Format::encode(x)) {}                                             \
    operator float() const { return emulation::Format::decode(bits); }                           \
  };                                                                                             \
  struct alignas(4) T2 {                                                                         \
    T x, y;                                                                                      \
  };                                                                                             \
  inline T emulation_fma(T a, T b, T c) {                                                        \
    return T(static_cast<double>(float(a)) * float(b) + float(c));                               \
  }                                                                                              \
  inline T __hadd(T a, T b) { return T(float(a) + float(b)); }                                   \
  inline T __hsub(T a, T b) { return T(float(a) - float(b)); }                                   \
  inline T __hmul(T a, T b) { return T(float(a) * float(b)); }                                   \
  inline T __hfma(T a, T b, T c) { return emulation_fma(a, b, c); }                              \
  inline T __hmax(T a, T b) { return T(std::fmax(float(a), float(b))); }                         \
  inline T __hmin(T a, T b) { return T(std::fmin(float(a), float(b))); }                         \
  inline T __hneg(T a) { return T(-float(a)); }                                                  \
  inline T __habs(T a) { return T(std::fabs(float(a))); }                                        \
  inline T2 __hadd2(T2 a, T2 b) { return {__hadd(a.x, b.x), __hadd(a.y, b.y)}; }                 \
  inline T2 __hsub2(T2 a, T2 b) { return {__hsub(a.x, b.x), __hsub(a.y, b.y)}; }                 \
  inline T2 __hmul2(T2 a, T2 b) { return {__hmul(a.x, b.x), __hmul(a.y, b.y)}; }                 \
  inline T2 __hmax2(T2 a, T2 b) { return {__hmax(a.x, b.x), __hmax(a.y, b.y)}; }                 \
  inline T2 __hmin2(T2 a, T2 b) { return {__hmin(a.x, b.x), __hmin(a.y, b.y)}; }                 \
  inline T2 __hfma2(T2 a, T2 b, T2 c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; } \
  inline T2 operator+(T2 a, T2 b) { return __hadd2(a, b); }                                      \
  inline T2 operator-(T2 a, T2 b) { return __hsub2(a, b); }                                      \
  inline T2 operator*(T2 a, T2 b) { return __hmul2(a, b); }
