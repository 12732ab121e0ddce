// Stands in for the product's file of the same name: each instruction as the PTX manual defines it,
// fragment layouts included.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

#include "asynchronous.h"

namespace emulation {

inline float decode_bf16(uint16_t bits) { return BrainFormat::decode(bits); }
inline float decode_f16(uint16_t bits) { return HalfFormat::decode(bits); }

inline uint32_t pair(uint16_t low, uint16_t high) {
  return low | static_cast<uint32_t>(high) << 16;
}

// ldmatrix: lane l gives a row of matrix l / 8 and gets two elements of each matrix.
struct Matrices {
  uint32_t address;
  uint32_t* r;
};

template <int kCount, bool kTransposed>
void load_matrices(uint32_t* r, uint32_t address) {
  Matrices mine{address, r};
  meet(0xffffffffu, kTransposed ? "ldmatrix.trans" : "ldmatrix", &mine,
       [](void* const argument[32], uint32_t) {
         for (int m = 0; m < kCount; ++m) {
           uint16_t matrix[8][8];
           for (int row = 0; row < 8; ++row) {
             const auto& from = *static_cast<const Matrices*>(argument[8 * m + row]);
             std::memcpy(matrix[row], shared_at(from.address, 16, 16), 16);
           }
           for (int l = 0; l < 32; ++l) {
             const int row = l / 4, column = 2 * (l % 4);
             static_cast<Matrices*>(argument[l])->r[m] =
                 kTransposed ? pair(matrix[column][row], matrix[column + 1][row])
                             : pair(matrix[row][column], matrix[row][column + 1]);
           }
         }
       });
}

// mma.m16n8k16: rows l / 4 and l / 4 + 8 of a and d, column l / 4 of b.
struct Mma {
  float* d;
  const uint32_t* a;
  uint32_t b[2];
};

template <float (*kDecode)(uint16_t)>
void mma(void* const argument[32], uint32_t mask) {
  if (mask != 0xffffffffu) throw Fault("mma by part of a warp");
  float a[16][16], b[16][8], d[16][8];
  const auto half = [](uint32_t word, int i) {
    return kDecode(static_cast<uint16_t>(word >> (16 * i)));
  };
  for (int l = 0; l < 32; ++l) {
    const auto& lane = *static_cast<const Mma*>(argument[l]);
    const int row = l / 4, pair = 2 * (l % 4);
    for (int h = 0; h < 2; ++h) {
      a[row][pair + h] = half(lane.a[0], h);
      a[row + 8][pair + h] = half(lane.a[1], h);
      a[row][pair + 8 + h] = half(lane.a[2], h);
      a[row + 8][pair + 8 + h] = half(lane.a[3], h);
      b[pair + h][row] = half(lane.b[0], h);
      b[pair + 8 + h][row] = half(lane.b[1], h);
      d[row][pair + h] = lane.d[h];
      d[row + 8][pair + h] = lane.d[2 + h];
    }
  }
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < 16; ++k) {
      for (int j = 0; j < 8; ++j) d[i][j] += a[i][k] * b[k][j];
    }
  }
  for (int l = 0; l < 32; ++l) {
    const auto& lane = *static_cast<const Mma*>(argument[l]);
    for (int i = 0; i < 4; ++i) lane.d[i] = d[l / 4 + i / 2 * 8][2 * (l % 4) + i % 2];
  }
}

}  // namespace emulation

namespace llama_rt::cuda {

inline uint4 load_once(const void* from) { return emulation_load(static_cast<const uint4*>(from)); }

inline uint32_t pack_bf16(float low, float high) {
  return emulation::pair(emulation::BrainFormat::encode(low), emulation::BrainFormat::encode(high));
}
inline uint32_t pack_f16(float low, float high) {
  return emulation::pair(emulation::HalfFormat::encode(low), emulation::HalfFormat::encode(high));
}
inline uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
  using emulation::BrainFormat;
  uint16_t out[2];
  for (int i = 0; i < 2; ++i) {
    const auto part = [i](uint32_t w) -> double {
      return BrainFormat::decode(static_cast<uint16_t>(w >> (16 * i)));
    };
    out[i] = BrainFormat::encode(part(a) * part(b) + part(c));
  }
  return emulation::pair(out[0], out[1]);
}

inline float exp2_fast(float x) { return x < -126.0f ? 0.0f : std::exp2(x); }

inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
inline void ldmatrix_x2(uint32_t (&r)[2], uint32_t address) {
  emulation::load_matrices<2, false>(r, address);
}
inline void ldmatrix_x4(uint32_t (&r)[4], uint32_t address) {
  emulation::load_matrices<4, false>(r, address);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t address) {
  emulation::load_matrices<4, true>(r, address);
}

inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulation::Mma mine{d, a, {b0, b1}};
  emulation::meet(0xffffffffu, "mma", &mine, emulation::mma<emulation::decode_bf16>);
}
inline void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulation::Mma mine{d, a, {b0, b1}};
  emulation::meet(0xffffffffu, "mma", &mine, emulation::mma<emulation::decode_f16>);
}

inline void copy_async(uint32_t to, const void* from, uint32_t bytes = 16) {
  emulation::copy_later(to, from, 16, bytes);
}
inline void copy_async_commit() { emulation::commit_copies(); }
template <int kNewest>
void copy_async_wait() {
  emulation::wait_for_copies(kNewest);
}

inline void sync_threads(int id, int threads) { emulation::barrier(id, threads); }
inline void barrier_init(uint32_t barrier, uint32_t arrivals) {
  emulation::barrier_create(barrier, arrivals);
}
inline void barrier_init_done() {}
inline void barrier_arrive(uint32_t barrier) { emulation::barrier_count(barrier, 0); }
inline void barrier_arrive_expect(uint32_t barrier, uint32_t bytes) {
  emulation::barrier_count(barrier, bytes);
}
inline void barrier_wait(uint32_t barrier, uint32_t parity) {
  emulation::barrier_await(barrier, parity);
}
inline void copy_bulk(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
  emulation::copy_bulk_later(to, from, bytes, barrier);
}
inline void prefetch_line(const void*) {}
inline void fence_async_proxy() {}

inline uint64_t matrix_descriptor(uint32_t address, uint32_t k_bytes, uint32_t mn_bytes) {
  return static_cast<uint64_t>((address & 0x3ffffu) >> 4) |
         static_cast<uint64_t>(k_bytes >> 4) << 16 | static_cast<uint64_t>(mn_bytes >> 4) << 32;
}
inline void wgmma_fence() { emulation::product_fence(); }
inline void wgmma_commit() { emulation::product_commit(); }
template <int kNewest>
void wgmma_wait() {
  emulation::product_wait(kNewest);
}
template <int kCount>
void wgmma_settle(float (&)[kCount]) {}
template <int kColumns>
void wgmma_bf16(float (&d)[kColumns / 2], const uint32_t (&a)[4], uint64_t b,
                bool accumulate = true) {
  emulation::product_later({d, a, 0, b, kColumns, accumulate, emulation::decode_bf16});
}
template <int kColumns>
void wgmma_f16(float (&d)[kColumns / 2], const uint32_t (&a)[4], uint64_t b,
               bool accumulate = true) {
  emulation::product_later({d, a, 0, b, kColumns, accumulate, emulation::decode_f16});
}
template <int kRegisters>
void set_max_registers() {}
template <int kRegisters>
void give_registers() {}

}  // namespace llama_rt::cuda
