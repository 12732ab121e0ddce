// Products on the matrix unit: up to 2 x 2 tiles of sums, held in registers over a K-block.
//
// An input tile is 16 tokens x 32 k of bf16, a weight tile 16 k pairs x 16 rows of bf16 pairs: 16
// lines of 64 bytes each. Sums are 16 tokens x 16 rows of float32. The unit adds in float32, rounds
// to nearest even and takes denormals as zeros, whatever MXCSR says.
#pragma once

// simd.h silences GCC 12 about its own intrinsics, so it comes before <immintrin.h>.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include LLAMA_RT_SIMD

namespace llama_rt::cpu::LLAMA_RT_LEVEL {

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

// Floats [first, first + 16) of a row of `count`, zeros past its end.
LLAMA_RT_INLINE F sixteen(const float* row, int64_t first, int64_t count) {
  const int64_t left = count - first;
  if (left >= kLanes) return f_load(row + first);
  if (left <= 0) return f_zero();
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << left) - 1), row + first);
}

// Two k of 16 rows as one line of a weight tile, which is given back. Bytes are permuted since that
// is one operation, two for words.
LLAMA_RT_INLINE I store_pairs(F even, F odd, std::byte* line) {
  alignas(64) static constexpr uint8_t kOrder[64] = {
      0,  1,  32, 33, 2,  3,  34, 35, 4,  5,  36, 37, 6,  7,  38, 39, 8,  9,  40, 41, 10, 11,
      42, 43, 12, 13, 44, 45, 14, 15, 46, 47, 16, 17, 48, 49, 18, 19, 50, 51, 20, 21, 52, 53,
      22, 23, 54, 55, 24, 25, 56, 57, 26, 27, 58, 59, 28, 29, 60, 61, 30, 31, 62, 63};
  const auto both = reinterpret_cast<I>(_mm512_cvtne2ps_pbh(odd, even));
  const I pairs = _mm512_permutexvar_epi8(_mm512_load_si512(kOrder), both);
  _mm512_store_si512(line, pairs);
  return pairs;
}
// 32 k of one row as one line of an input tile, likewise.
LLAMA_RT_INLINE I store_row(F first, F second, std::byte* line) {
  const auto row = reinterpret_cast<I>(_mm512_cvtne2ps_pbh(second, first));
  _mm512_store_si512(line, row);
  return row;
}

// The same as kParts lines: what rounding took off goes `low` bytes further.
template <int kParts>
LLAMA_RT_INLINE void split_pairs(F even, F odd, std::byte* line, int64_t low) {
  const I high = store_pairs(even, odd, line);
  if constexpr (kParts == 2) {
    store_pairs(_mm512_sub_ps(even, f_bf16_even(high)), _mm512_sub_ps(odd, f_bf16_odd(high)),
                line + low);
  }
}
template <int kParts>
LLAMA_RT_INLINE void split_row(F first, F second, std::byte* line, int64_t low) {
  const I high = store_row(first, second, line);
  if constexpr (kParts == 2) {
    const auto widened = [](__m256i words) {
      return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16));
    };
    store_row(_mm512_sub_ps(first, widened(_mm512_castsi512_si256(high))),
              _mm512_sub_ps(second, widened(_mm512_extracti64x4_epi64(high, 1))), line + low);
  }
}

// One product: kBlocks blocks of 16 tokens times kPanels panels, over `steps` tiles of k.
struct TileTask {
  const std::byte* inputs;  // tiles of the first block, one after the other
  int64_t inputs_stride;    // bytes to those of the second block
  int64_t inputs_low;       // bytes to those of the low parts
  const std::byte* weights;
  int64_t weights_stride;  // bytes to those of the second panel
  int64_t weights_low;
  int64_t steps;
  const float* from;  // sums to go on with, one tile; null: zeros
  float* to;
  int64_t row_bytes;    // from a row of a tile of sums to the next
  int64_t block_bytes;  // from a tile of sums to that of the second block
  int64_t panel_bytes;  // and of the second panel
};

// What sums to go on with, and where they go.
template <int kBlocks, int kPanels>
LLAMA_RT_INLINE void load_sums(const TileTask& task) {
  if (!task.from) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    return;
  }
  const auto* from = reinterpret_cast<const std::byte*>(task.from);
  _tile_loadd(0, from, task.row_bytes);
  if constexpr (kPanels == 2) _tile_loadd(1, from + task.panel_bytes, task.row_bytes);
  if constexpr (kBlocks == 2) {
    from += task.block_bytes;
    _tile_loadd(2, from, task.row_bytes);
    if constexpr (kPanels == 2) _tile_loadd(3, from + task.panel_bytes, task.row_bytes);
  }
}
template <int kBlocks, int kPanels>
LLAMA_RT_INLINE void store_sums(const TileTask& task) {
  auto* to = reinterpret_cast<std::byte*>(task.to);
  _tile_stored(0, to, task.row_bytes);
  if constexpr (kPanels == 2) _tile_stored(1, to + task.panel_bytes, task.row_bytes);
  if constexpr (kBlocks == 2) {
    to += task.block_bytes;
    _tile_stored(2, to, task.row_bytes);
    if constexpr (kPanels == 2) _tile_stored(3, to + task.panel_bytes, task.row_bytes);
  }
}

// kParts 1: operands are bf16. 2: each is the sum of two, high and low, and the product of the low
// ones is left out, so 16 bits of a factor count. Calls between() after the products of each step,
// for work that other units can do meanwhile.
template <int kBlocks, int kPanels, int kParts, class Between>
LLAMA_RT_INLINE void multiply_tile_block(const TileTask& task, Between& between) {
  load_sums<kBlocks, kPanels>(task);
  for (int term = 0; term < 2 * kParts - 1; ++term) {  // high x high, low x high, high x low
    const std::byte* a = task.inputs + (term == 1 ? task.inputs_low : 0);
    const std::byte* b = task.weights + (term == 2 ? task.weights_low : 0);
    for (int64_t step = 0; step < task.steps; ++step) {
      _tile_loadd(4, a, 64);
      _tile_loadd(6, b, 64);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (kPanels == 2) {
        _tile_loadd(7, b + task.weights_stride, 64);
        _tile_dpbf16ps(1, 4, 7);
      }
      if constexpr (kBlocks == 2) {
        _tile_loadd(5, a + task.inputs_stride, 64);
        _tile_dpbf16ps(2, 5, 6);
        if constexpr (kPanels == 2) _tile_dpbf16ps(3, 5, 7);
      }
      a += kTileBytes;
      b += kTileBytes;
      between();
    }
  }
  store_sums<kBlocks, kPanels>(task);
}

// The same by the numbers at hand.
template <int kParts, class Between>
LLAMA_RT_INLINE void multiply_tile_blocks(const TileTask& task, bool two_blocks, bool two_panels,
                                          Between& between) {
  if (two_panels) {
    two_blocks ? multiply_tile_block<2, 2, kParts>(task, between)
               : multiply_tile_block<1, 2, kParts>(task, between);
  } else {
    two_blocks ? multiply_tile_block<2, 1, kParts>(task, between)
               : multiply_tile_block<1, 1, kParts>(task, between);
  }
}

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
