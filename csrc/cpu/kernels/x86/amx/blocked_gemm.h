// The loops around tile products: which panels, K-blocks and tokens follow each other, and
// how the weights of the next K-block become tiles meanwhile. Formats differ only in an TileSource.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/kernel_table.h"
#include "cpu/kernels/x86/amx/tiles.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {

// Sizes, for 2 MiB of second-level cache per core that give 64 bytes a cycle, and about 5 from
// beyond them; a 2 x 2 block of products reads 64 bytes of tiles a cycle. The weights of a K-block
// (16 KiB) stay in the first-level cache while all inputs pass, which halves what the second has to
// give. That holds the sums of a group (1 MiB), the inputs of a K-block and of the next one (2 x
// 256 KiB). From beyond it come 2 bytes of inputs a cycle (1024 / rows of a group), and the weights
// once for all the tokens. Operands of two parts take half as many tokens.
inline constexpr int64_t kGemmTokens = 512;
inline constexpr int64_t kGemmPanels = 32;
inline constexpr int64_t kBlockTiles = 8;  // tiles of k: 256 k, a whole number of super-blocks

inline constexpr int64_t kSumsBytes = kGemmTokens * kGemmPanels * 16 * 4;
inline constexpr int64_t kTilePanelBytes = kBlockTiles * kTileBytes;  // of one part
inline constexpr int64_t kGemmScratch = kSumsBytes + 4 * kTileBytes + 8 * kTilePanelBytes;

// Half of the work on a weight tile, the 32 k of one panel.
struct HalfTile {
  const std::byte* source;  // where the K-block begins in the panel
  const std::byte* end;     // of the panel
  int64_t index;            // in the K-block: tile index / 2
  int64_t ahead;            // bytes to the source to be prefetched
  std::byte* tile;          // to be filled by both halves; a low part kTilePanelBytes after it
};
struct TileSource {
  // Bytes before tile `tile` (a multiple of kBlockTiles) of a panel.
  int64_t (*offset)(int64_t tile) noexcept;
  void (*dequantize)(const HalfTile& half) noexcept;
  // For panels that already are tiles, but for a last one cut short: prefetches instead.
  void (*prefetch)(const HalfTile& half) noexcept;
};

// Bytes of a token's inputs, of one part. K-blocks of blocks follow each other at an odd multiple
// of 8 KiB, the size of one, so that together they use all cache sets alike.
inline int64_t tile_row_bytes(int64_t k) {
  const int64_t blocks = (k + kBlockTiles * kTileK - 1) / (kBlockTiles * kTileK);
  return (blocks | 1) * kBlockTiles * 64;
}

// kParts: see multiply_tile_block. Low parts of a block's inputs follow its high ones.
template <int kParts>
void multiply_tiles(const PackedMatmulTask& task, const TileSource& tile_source) noexcept;
extern template void multiply_tiles<1>(const PackedMatmulTask&, const TileSource&) noexcept;
extern template void multiply_tiles<2>(const PackedMatmulTask&, const TileSource&) noexcept;

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
