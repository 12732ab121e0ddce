// Counter-based random numbers, the same on host and device: a number is a function of a key and a
// counter, so a draw depends on nothing but its seed and its place. Owns no state.
#pragma once

#include <cstdint>

#ifndef LLAMA_RT_HOST_DEVICE
#if defined(__CUDACC__)
#define LLAMA_RT_HOST_DEVICE __host__ __device__
#else
#define LLAMA_RT_HOST_DEVICE
#endif
#endif

namespace llama_rt {

// 128 random bits.
struct RandomBits {
  uint32_t word[4];
};

// Philox4x32-10: J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel Random Numbers: As
// Easy as 1, 2, 3", SC11. `key` and `counter` lie low word first; the counter's upper half is
// `stream`, so that one key can serve several independent sequences.
LLAMA_RT_HOST_DEVICE constexpr RandomBits philox(uint64_t key, uint64_t counter,
                                                 uint64_t stream = 0) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  uint32_t c0 = static_cast<uint32_t>(counter), c1 = static_cast<uint32_t>(counter >> 32);
  uint32_t c2 = static_cast<uint32_t>(stream), c3 = static_cast<uint32_t>(stream >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53u} * c0, b = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(b);
    c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(a);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Uniform in [0, 1): 53 bits of the first two words, and 24 bits of the first.
LLAMA_RT_HOST_DEVICE constexpr double uniform_double(const RandomBits& bits) {
  const uint64_t joined = uint64_t{bits.word[1]} << 32 | bits.word[0];
  return static_cast<double>(joined >> 11) * 0x1p-53;
}
LLAMA_RT_HOST_DEVICE constexpr float uniform_float(const RandomBits& bits) {
  return static_cast<float>(bits.word[0] >> 8) * 0x1p-24f;
}

}  // namespace llama_rt
