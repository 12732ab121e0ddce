// What device code calls without an include: qualifiers, indices, barriers, warp functions, atomics
// and arithmetic.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>

#include "execution.h"
#include "vectors.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)
#define __restrict__ __restrict
#define __maxnreg__(n)
#define __cluster_dims__(...)

constexpr int warpSize = 32;

inline void __syncthreads() { emulation::barrier(0, 0); }
inline void __syncwarp(uint32_t mask = 0xffffffffu) {
  emulation::meet(mask, "__syncwarp", nullptr, [](void* const[32], uint32_t) {});
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
inline void __nanosleep(unsigned) { emulation::wait_for_progress("__nanosleep"); }
[[noreturn]] inline void __trap() { throw emulation::Fault("__trap"); }
#define __builtin_assume(x) static_cast<void>(0)

namespace emulation {

// A word of a lane and the lane it wants; `in` of that lane becomes `out`.
struct Shuffle {
  uint64_t in, out;
  int source;
};

inline uint64_t shuffle(uint32_t mask, uint64_t in, int source, const char* kind) {
  Shuffle mine{in, 0, source};
  meet(mask, kind, &mine, [](void* const argument[32], uint32_t) {
    for (int i = 0; i < 32; ++i) {
      if (!argument[i]) continue;
      auto* s = static_cast<Shuffle*>(argument[i]);
      const auto* from = static_cast<const Shuffle*>(argument[s->source]);
      if (!from) throw Fault("a shuffle reads a lane that takes no part");
      s->out = from->in;
    }
  });
  return mine.out;
}

template <class T>
T shuffled(uint32_t mask, T value, int source, const char* kind) {
  static_assert(sizeof(T) <= 8);
  uint64_t word = 0;
  std::memcpy(&word, &value, sizeof(T));
  word = shuffle(mask, word, source, kind);
  std::memcpy(&value, &word, sizeof(T));
  return value;
}

struct Vote {
  uint64_t value;
  uint64_t result;
};

template <class Fold>
uint64_t vote(uint32_t mask, uint64_t value, const char* kind, Fold) {
  Vote mine{value, 0};
  meet(mask, kind, &mine, [](void* const argument[32], uint32_t) {
    uint64_t result = 0;
    bool first = true;
    for (int i = 0; i < 32; ++i) {
      if (!argument[i]) continue;
      const uint64_t v = static_cast<Vote*>(argument[i])->value;
      result = Fold{}(result, v, i, first);
      first = false;
    }
    for (int i = 0; i < 32; ++i) {
      if (argument[i]) static_cast<Vote*>(argument[i])->result = result;
    }
  });
  return mine.result;
}

}  // namespace emulation

template <class T>
T __shfl_sync(uint32_t mask, T value, int source, int width = 32) {
  const int base = emulation::lane() & ~(width - 1);
  return emulation::shuffled(mask, value, base + (source & (width - 1)), "__shfl_sync");
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int bits, int width = 32) {
  const int lane = emulation::lane(), other = lane ^ bits;
  const bool inside = (other & ~(width - 1)) <= (lane & ~(width - 1));
  return emulation::shuffled(mask, value, inside ? other : lane, "__shfl_xor_sync");
}
template <class T>
T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = 32) {
  const int lane = emulation::lane(), other = lane - static_cast<int>(delta);
  const bool inside = other >= (lane & ~(width - 1));
  return emulation::shuffled(mask, value, inside ? other : lane, "__shfl_up_sync");
}
template <class T>
T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = 32) {
  const int lane = emulation::lane(), other = lane + static_cast<int>(delta);
  const bool inside = other < (lane & ~(width - 1)) + width;
  return emulation::shuffled(mask, value, inside ? other : lane, "__shfl_down_sync");
}
inline unsigned __ballot_sync(uint32_t mask, int predicate) {
  const auto fold = [](uint64_t r, uint64_t v, int i, bool) { return r | (v << i); };
  return static_cast<unsigned>(emulation::vote(mask, predicate != 0, "__ballot_sync", fold));
}
inline int __any_sync(uint32_t mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(uint32_t mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }
inline unsigned __reduce_add_sync(uint32_t mask, unsigned value) {
  const auto fold = [](uint64_t r, uint64_t v, int, bool) { return r + v; };
  return static_cast<unsigned>(emulation::vote(mask, value, "__reduce_add_sync", fold));
}
inline int __reduce_add_sync(uint32_t mask, int value) {
  return static_cast<int>(__reduce_add_sync(mask, static_cast<unsigned>(value)));
}
inline unsigned __reduce_max_sync(uint32_t mask, unsigned value) {
  const auto fold = [](uint64_t r, uint64_t v, int, bool) { return r > v ? r : v; };
  return static_cast<unsigned>(emulation::vote(mask, value, "__reduce_max_sync", fold));
}
inline unsigned __reduce_min_sync(uint32_t mask, unsigned value) {
  const auto fold = [](uint64_t r, uint64_t v, int, bool first) { return first || v < r ? v : r; };
  return static_cast<unsigned>(emulation::vote(mask, value, "__reduce_min_sync", fold));
}
inline int __reduce_max_sync(uint32_t mask, int value) {
  return static_cast<int>(__reduce_max_sync(mask, static_cast<unsigned>(value) ^ 0x80000000u) ^
                          0x80000000u);
}
inline int __reduce_min_sync(uint32_t mask, int value) {
  return static_cast<int>(__reduce_min_sync(mask, static_cast<unsigned>(value) ^ 0x80000000u) ^
                          0x80000000u);
}
inline int __syncthreads_or(int predicate) {
  static int result;
  __syncthreads();
  result = 0;
  __syncthreads();
  if (predicate) result = 1;
  __syncthreads();
  return result;
}
inline int __syncthreads_count(int predicate) {
  static int result;
  __syncthreads();
  result = 0;
  __syncthreads();
  if (predicate) ++result;
  __syncthreads();
  return result;
}

// Threads never run at the same time, so plain arithmetic is atomic.
template <class T, class U>
T atomicAdd(T* to, U value) {
  return std::exchange(*to, static_cast<T>(*to + static_cast<T>(value)));
}
template <class T, class U>
T atomicMax(T* to, U value) {
  return std::exchange(*to, std::max(*to, static_cast<T>(value)));
}
template <class T, class U>
T atomicMin(T* to, U value) {
  return std::exchange(*to, std::min(*to, static_cast<T>(value)));
}
template <class T, class U>
T atomicOr(T* to, U value) {
  return std::exchange(*to, *to | static_cast<T>(value));
}
template <class T, class U>
T atomicExch(T* to, U value) {
  return std::exchange(*to, static_cast<T>(value));
}
template <class T, class U, class V>
T atomicCAS(T* to, U compare, V value) {
  return std::exchange(*to, *to == static_cast<T>(compare) ? static_cast<T>(value) : *to);
}
inline unsigned atomicInc(unsigned* to, unsigned most) {
  return std::exchange(*to, *to >= most ? 0 : *to + 1);
}

// Loads and stores with cache hints; they need natural alignment as all accesses do.
template <class T>
T emulation_load(const T* from) {
  if (reinterpret_cast<uintptr_t>(from) % sizeof(T) != 0) {
    throw emulation::Fault("a misaligned load of " + std::to_string(sizeof(T)) + " bytes");
  }
  return *from;
}
template <class T>
T __ldg(const T* from) {
  return emulation_load(from);
}
template <class T>
T __ldcg(const T* from) {
  return emulation_load(from);
}
template <class T>
T __ldca(const T* from) {
  return emulation_load(from);
}
template <class T>
T __ldcs(const T* from) {
  return emulation_load(from);
}
template <class T>
T __ldlu(const T* from) {
  return emulation_load(from);
}
template <class T>
T __ldcv(const T* from) {
  return emulation_load(from);
}
template <class T>
void __stcs(T* to, T value) {
  *to = value;
}
template <class T>
void __stcg(T* to, T value) {
  *to = value;
}
template <class T>
void __stwt(T* to, T value) {
  *to = value;
}

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
inline int __ffs(int x) { return x ? std::countr_zero(static_cast<unsigned>(x)) + 1 : 0; }
inline unsigned __brev(unsigned x) {
  unsigned r = 0;
  for (int i = 0; i < 32; ++i) r |= (x >> i & 1) << (31 - i);
  return r;
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const uint64_t bytes = uint64_t{b} << 32 | a;
  unsigned r = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned s = selector >> (4 * i) & 15;
    unsigned byte = static_cast<unsigned>(bytes >> (8 * (s & 7)) & 0xff);
    if (s & 8) byte = byte & 0x80 ? 0xff : 0;
    r |= byte << (8 * i);
  }
  return r;
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((uint64_t{high} << 32 | low) >> (shift & 31));
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((uint64_t{high} << 32 | low) << (shift & 31) >> 32);
}
inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; ++i) {
    c += static_cast<int8_t>(a >> (8 * i)) * static_cast<int8_t>(b >> (8 * i));
  }
  return c;
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  for (int i = 0; i < 4; ++i) c += (a >> (8 * i) & 255) * (b >> (8 * i) & 255);
  return c;
}
inline unsigned __vsub4(unsigned a, unsigned b) {
  unsigned r = 0;
  for (int i = 0; i < 32; i += 8) r |= (((a >> i) - (b >> i)) & 255) << i;
  return r;
}
inline unsigned __vadd4(unsigned a, unsigned b) {
  unsigned r = 0;
  for (int i = 0; i < 32; i += 8) r |= (((a >> i) + (b >> i)) & 255) << i;
  return r;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(uint64_t{a} * b >> 32);
}

inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }
inline int __float2int_rn(float x) { return static_cast<int>(std::nearbyint(x)); }
inline int __float2int_rz(float x) { return static_cast<int>(x); }
inline int __float2int_rd(float x) { return static_cast<int>(std::floor(x)); }
inline unsigned __float2uint_rn(float x) { return static_cast<unsigned>(std::nearbyint(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __frsqrt_rn(float a) { return 1.0f / std::sqrt(a); }
inline float rsqrtf(float a) { return 1.0f / std::sqrt(a); }
inline double rsqrt(double a) { return 1.0 / std::sqrt(a); }
inline float __expf(float a) { return std::exp(a); }
inline float __exp2f(float a) { return std::exp2(a); }
inline float __logf(float a) { return std::log(a); }
inline float __log2f(float a) { return std::log2(a); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float __saturatef(float a) { return a > 0 ? std::min(a, 1.0f) : 0.0f; }

// CUDA's overloads of min and max take mixed types; of a NaN and a number they give the number.
template <class A, class B>
  requires(std::is_arithmetic_v<A> && std::is_arithmetic_v<B>)
constexpr std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) return std::fmin(static_cast<T>(a), static_cast<T>(b));
  return static_cast<T>(b) < static_cast<T>(a) ? static_cast<T>(b) : static_cast<T>(a);
}
template <class A, class B>
  requires(std::is_arithmetic_v<A> && std::is_arithmetic_v<B>)
constexpr std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) return std::fmax(static_cast<T>(a), static_cast<T>(b));
  return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a);
}

// Generic addresses stand for themselves; an address of shared memory is its offset.
inline size_t __cvta_generic_to_shared(const void* p) {
  return static_cast<size_t>(static_cast<const std::byte*>(p) - emulation::shared_memory());
}
