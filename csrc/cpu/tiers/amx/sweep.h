// The loops around tile products: which panels, stretches of k and tokens follow each other, and
// how the weights of the next stretch become tiles meanwhile. Formats differ only in an Expansion.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/kernels.h"
#include "cpu/tiers/amx/tiles.h"

namespace llama_rt::cpu::LLAMA_RT_TIER {

// Sizes, for 2 MiB of second-level cache per core: the inputs of a stretch and of the next one
// (2 x 512 KiB), the sums of a group of panels (512 KiB) and two pairs of expanded panels (128
// KiB). A longer stretch drains the sums less often, a larger group reads the inputs less often
// from beyond that cache, more tokens read and expand the weights less often.
inline constexpr int64_t kSweepTokens = 256;
inline constexpr int64_t kSweepPanels = 32;
inline constexpr int64_t kStretch = 32;  // tiles of k: 1024 k, a whole number of super-blocks

inline constexpr int64_t kSumsBytes = kSweepTokens * kSweepPanels * 16 * 4;
inline constexpr int64_t kExpandedPanelBytes = kStretch * kTileBytes;
inline constexpr int64_t kExpandedBytes = 2 * kExpandedPanelBytes;  // a pair of panels
inline constexpr int64_t kSweepScratch = kSumsBytes + 4 * kTileBytes + 2 * kExpandedBytes;

// Half of the work on a weight tile, the 32 k of one panel.
struct HalfTile {
  const std::byte* source;  // where the stretch begins in the panel
  const std::byte* end;     // of the panel
  int64_t index;            // in the stretch: tile index / 2
  int64_t ahead;            // bytes to the source to be prefetched
  std::byte* tile;          // to be filled by both halves
};
struct Expansion {
  // Bytes before tile `tile` (a multiple of kStretch) of a panel.
  int64_t (*offset)(int64_t tile) noexcept;
  void (*expand)(const HalfTile& half) noexcept;
  // For panels that already are tiles, but for a last one cut short: prefetches instead.
  void (*touch)(const HalfTile& half) noexcept;
};

// Bytes of a token's inputs: stretches of blocks must not all fall into the same cache sets, so the
// blocks' distance is never a multiple of 32 KiB.
inline int64_t tile_row_bytes(int64_t k) {
  const int64_t tiles = (k + kTileK - 1) / kTileK;
  return (tiles % 32 == 0 ? tiles + 16 : tiles) * 64;
}

void multiply_tiles(const PackedTask& task, const Expansion& expansion) noexcept;

}  // namespace llama_rt::cpu::LLAMA_RT_TIER
