// GEMM over float panels, and the inputs of all tile products. Lines of bf16
// panels are weight tiles as they are. f16 and f32 are multiplied as sums of two bf16, and so are
// their inputs: of each factor 16 bits count (an f16 has 11). What a product is off by, 2^-16 of it
// at most, averages out over many k to the size of what sums in float32 are off by.
#include "cpu/kernel_table.h"
#include "cpu/kernels/gemm/panel.h"
#include "cpu/kernels/x86/amx/blocked_gemm.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {
namespace {

// From here on tiles cost less than the vector products of as many inputs.
constexpr int64_t kMinTokens = 8;
constexpr int64_t kMinSplitTokens = 16;
constexpr int64_t kMinSplitK = 256;

constexpr int kHalfLines = 8;

struct Bf16Expansion {
  static int64_t offset(int64_t tile) noexcept { return tile * kTileBytes; }

  static void prefetch(const HalfTile& half) noexcept {
    const std::byte* at = half.source + half.index * kHalfLines * kLine;
    for (int line = 0; line < kHalfLines; ++line) {
      _mm_prefetch(reinterpret_cast<const char*>(at + line * kLine), _MM_HINT_T1);
    }
  }

  // A K-block whose last tile is not whole: copied, with zeros after the panel's end.
  static void dequantize(const HalfTile& half) noexcept {
    const std::byte* at = half.source + half.index * kHalfLines * kLine;
    std::byte* out = half.tile + half.index % 2 * kHalfLines * kLine;
    for (int line = 0; line < kHalfLines; ++line, at += kLine, out += kLine) {
      _mm512_store_si512(out, at < half.end ? i_load(at) : i_zero());
    }
  }

  static constexpr TileSource kTileSource = {offset, dequantize, prefetch};
  static void multiply(const PackedMatmulTask& task) noexcept {
    multiply_tiles<1>(task, kTileSource);
  }
};

// Two k of 16 rows from their lines of a panel.
struct PairsF16 {
  static constexpr int kLines = 1;
  static F even(const std::byte* at, const std::byte*) { return f_half(at); }
  static F odd(const std::byte* at, const std::byte*) { return f_half(at + kLine / 2); }
};
struct PairsF32 {
  static constexpr int kLines = 2;
  static F even(const std::byte* at, const std::byte*) {
    return f_load(reinterpret_cast<const float*>(at));
  }
  static F odd(const std::byte* at, const std::byte* end) {
    return at + kLine < end ? f_load(reinterpret_cast<const float*>(at + kLine)) : f_zero();
  }
};

template <class Pairs>
struct SplitExpansion {
  static constexpr int64_t kPairBytes = Pairs::kLines * kLine;
  static constexpr int64_t kHalfBytes = kHalfLines * kPairBytes;

  static int64_t offset(int64_t tile) noexcept { return tile * 2 * kHalfBytes; }

  static void dequantize(const HalfTile& half) noexcept {
    const std::byte* at = half.source + half.index * kHalfBytes;
    std::byte* high = half.tile + half.index % 2 * kHalfLines * kLine;
    for (int64_t line = 0; line < kHalfBytes; line += kLine) {
      _mm_prefetch(reinterpret_cast<const char*>(at + half.ahead + line), _MM_HINT_T1);
    }
    for (int pair = 0; pair < kHalfLines; ++pair, at += kPairBytes, high += kLine) {
      const bool inside = at < half.end;
      const F even = inside ? Pairs::even(at, half.end) : f_zero();
      const F odd = inside ? Pairs::odd(at, half.end) : f_zero();
      split_pairs<2>(even, odd, high, kTilePanelBytes);
    }
  }

  static constexpr TileSource kTileSource = {offset, dequantize, nullptr};
  static void multiply(const PackedMatmulTask& task) noexcept {
    multiply_tiles<2>(task, kTileSource);
  }
};

// One token's 32 k of each tile: lines at the distance of a tile, low parts after the high ones.
template <int kParts>
void convert(const float* x, int64_t k, std::byte* out) noexcept {
  const int64_t low = tile_row_bytes(k) * kTileTokens;
  for (int64_t first = 0; first < k; first += kTileK, out += kTileBytes) {
    split_row<kParts>(sixteen(x, first, k), sixteen(x, first + kLanes, k), out, low);
  }
}
template <int kParts>
int64_t row_bytes(int64_t k) noexcept {
  return kParts * tile_row_bytes(k);
}

template <class Expanded>
constexpr void add(Kernels& kernels, DType dtype, Activation activation, int64_t min_tokens,
                   int64_t min_k) {
  kernels.packed[static_cast<size_t>(dtype)].gemm = {
      Expanded::multiply, activation, min_tokens, min_k, kGemmScratch, kGemmPanels};
}

}  // namespace

constinit const Kernels kTiledFloatMatmul = [] {
  Kernels kernels;
  kernels.activations[static_cast<size_t>(Activation::kTiles)] = {row_bytes<1>, convert<1>,
                                                                  kTileTokens};
  kernels.activations[static_cast<size_t>(Activation::kSplitTiles)] = {row_bytes<2>, convert<2>,
                                                                       kTileTokens};
  add<Bf16Expansion>(kernels, DType::kBF16, Activation::kTiles, kMinTokens, 0);
  add<SplitExpansion<PairsF16>>(kernels, DType::kF16, Activation::kSplitTiles, kMinSplitTokens,
                                kMinSplitK);
  add<SplitExpansion<PairsF32>>(kernels, DType::kF32, Activation::kSplitTiles, kMinSplitTokens,
                                kMinSplitK);
  return kernels;
}();

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
