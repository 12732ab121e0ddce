// Products on the matrix unit: up to 2 x 2 tiles of sums, held in registers over a stretch of k.
//
// An input tile is 16 tokens x 32 k of bf16, a weight tile 16 k pairs x 16 rows of bf16 pairs: 16
// lines of 64 bytes each. Sums are 16 tokens x 16 rows of float32. The unit adds in float32, rounds
// to nearest even and takes denormals as zeros, whatever MXCSR says.
#pragma once

// lanes.h silences GCC 12 about its own intrinsics, so it comes before <immintrin.h>.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "cpu/tiers/avx512/lanes.h"

namespace llama_rt::cpu::LLAMA_RT_TIER {

inline constexpr int64_t kTileBytes = 1024;
inline constexpr int64_t kTileFloats = 256;
inline constexpr int kTileTokens = 16;
inline constexpr int64_t kTileK = 32;

// Tiles 0 to 3: sums, 2 * block of tokens + panel; 4, 5: inputs; 6, 7: weights.
// GCC 12 believes that loading a configuration reads 8 bytes of it and drops stores to the rest, so
// it must be a constant.
struct TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);
alignas(64) static constexpr TileConfig kTileConfig;

// Loads of tiles do not tell GCC that they read memory: what was stored before must be written.
LLAMA_RT_INLINE void memory_barrier() { asm volatile("" ::: "memory"); }

// One product: kBlocks blocks of 16 tokens times kPanels panels, over `steps` tiles of k.
struct TileTask {
  const std::byte* inputs;  // tiles of the first block, one after the other
  int64_t inputs_stride;    // bytes to those of the second block
  const std::byte* weights;
  int64_t weights_stride;  // bytes to those of the second panel
  int64_t steps;
  const float* from;  // sums to go on with, [4] tiles; null: zeros
  float* to;
};

// Calls between() after the products of each step, for work that other units can do meanwhile.
template <int kBlocks, int kPanels, class Between>
LLAMA_RT_INLINE void multiply_tile_block(const TileTask& task, Between& between) {
  constexpr bool kTwoBlocks = kBlocks == 2, kTwoPanels = kPanels == 2;
  if (task.from) {
    _tile_loadd(0, task.from, 64);
    if constexpr (kTwoPanels) _tile_loadd(1, task.from + kTileFloats, 64);
    if constexpr (kTwoBlocks) _tile_loadd(2, task.from + 2 * kTileFloats, 64);
    if constexpr (kTwoBlocks && kTwoPanels) _tile_loadd(3, task.from + 3 * kTileFloats, 64);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  const std::byte* a = task.inputs;
  const std::byte* b = task.weights;
  for (int64_t step = 0; step < task.steps; ++step) {
    _tile_loadd(4, a, 64);
    _tile_loadd(6, b, 64);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kTwoPanels) {
      _tile_loadd(7, b + task.weights_stride, 64);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (kTwoBlocks) {
      _tile_loadd(5, a + task.inputs_stride, 64);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (kTwoPanels) _tile_dpbf16ps(3, 5, 7);
    }
    a += kTileBytes;
    b += kTileBytes;
    between();
  }
  _tile_stored(0, task.to, 64);
  if constexpr (kTwoPanels) _tile_stored(1, task.to + kTileFloats, 64);
  if constexpr (kTwoBlocks) _tile_stored(2, task.to + 2 * kTileFloats, 64);
  if constexpr (kTwoBlocks && kTwoPanels) _tile_stored(3, task.to + 3 * kTileFloats, 64);
}

}  // namespace llama_rt::cpu::LLAMA_RT_TIER
