// Products of many inputs with bf16 panels, whose lines are weight tiles as they are, and the
// inputs of all tile products.
#include "cpu/tiers/amx/paint.h"
#include "cpu/tiers/amx/sweep.h"
#include "cpu/tiers/generic/panel.h"

namespace llama_rt::cpu::LLAMA_RT_TIER {
namespace {

constexpr int64_t kMinTokens = 8;
constexpr int kHalfLines = 8;

int64_t offset(int64_t tile) noexcept { return tile * kTileBytes; }

void touch(const HalfTile& half) noexcept {
  const std::byte* at = half.source + half.index * kHalfLines * kLine;
  for (int line = 0; line < kHalfLines; ++line) {
    _mm_prefetch(reinterpret_cast<const char*>(at + line * kLine), _MM_HINT_T1);
  }
}

// A stretch whose last tile is not whole: copied, with zeros after the panel's end.
void expand(const HalfTile& half) noexcept {
  const std::byte* at = half.source + half.index * kHalfLines * kLine;
  std::byte* out = half.tile + half.index % 2 * kHalfLines * kLine;
  for (int line = 0; line < kHalfLines; ++line, at += kLine, out += kLine) {
    _mm512_store_si512(out, at < half.end ? i_load(at) : i_zero());
  }
}

constexpr Expansion kExpansion = {offset, expand, touch};

void multiply(const PackedTask& task) noexcept { multiply_tiles(task, kExpansion); }

// 16 inputs from x + first on; those from k on are zeros.
F inputs(const float* x, int64_t first, int64_t k) {
  if (first + kLanes <= k) return f_load(x + first);
  if (first >= k) return f_zero();
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << (k - first)) - 1), x + first);
}

// One token's 32 k of each tile: lines at the distance of a tile. Nearest even.
void convert(const float* x, int64_t k, std::byte* out) noexcept {
  for (int64_t first = 0; first < k; first += kTileK, out += kTileBytes) {
    const auto line =
        reinterpret_cast<I>(_mm512_cvtne2ps_pbh(inputs(x, first + kLanes, k), inputs(x, first, k)));
    _mm512_store_si512(out, line);
  }
}

int64_t row_bytes(int64_t k) noexcept { return tile_row_bytes(k); }

}  // namespace

void paint_float_tiles(Kernels& kernels) {
  kernels.activations[static_cast<size_t>(Activation::kTiles)] = {row_bytes, convert, kTileTokens};
  kernels.packed[static_cast<size_t>(DType::kBF16)].wide = {
      multiply, Activation::kTiles, kMinTokens, kSweepScratch, kSweepPanels};
}

}  // namespace llama_rt::cpu::LLAMA_RT_TIER
