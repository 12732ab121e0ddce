// Products of many inputs with float panels, and the inputs of all tile products. Lines of bf16
// panels are weight tiles as they are. f16 and f32 are multiplied as sums of two bf16, and so are
// their inputs: of each factor 16 bits count (an f16 has 11). What a product is off by, 2^-16 of it
// at most, averages out over many k to the size of what sums in float32 are off by.
#include "cpu/tiers/amx/paint.h"
#include "cpu/tiers/amx/sweep.h"
#include "cpu/tiers/generic/panel.h"

namespace llama_rt::cpu::LLAMA_RT_TIER {
namespace {

// From here on tiles cost less than the vector products of as many inputs.
constexpr int64_t kMinTokens = 8;
constexpr int64_t kMinSplitTokens = 16;
constexpr int64_t kMinSplitK = 256;

constexpr int kHalfLines = 8;

struct Bf16Expansion {
  static int64_t offset(int64_t tile) noexcept { return tile * kTileBytes; }

  static void touch(const HalfTile& half) noexcept {
    const std::byte* at = half.source + half.index * kHalfLines * kLine;
    for (int line = 0; line < kHalfLines; ++line) {
      _mm_prefetch(reinterpret_cast<const char*>(at + line * kLine), _MM_HINT_T1);
    }
  }

  // A stretch whose last tile is not whole: copied, with zeros after the panel's end.
  static void expand(const HalfTile& half) noexcept {
    const std::byte* at = half.source + half.index * kHalfLines * kLine;
    std::byte* out = half.tile + half.index % 2 * kHalfLines * kLine;
    for (int line = 0; line < kHalfLines; ++line, at += kLine, out += kLine) {
      _mm512_store_si512(out, at < half.end ? i_load(at) : i_zero());
    }
  }

  static constexpr Expansion kExpansion = {offset, expand, touch};
  static void multiply(const PackedTask& task) noexcept { multiply_tiles<1>(task, kExpansion); }
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

  static void expand(const HalfTile& half) noexcept {
    const std::byte* at = half.source + half.index * kHalfBytes;
    std::byte* high = half.tile + half.index % 2 * kHalfLines * kLine;
    for (int64_t line = 0; line < kHalfBytes; line += kLine) {
      _mm_prefetch(reinterpret_cast<const char*>(at + half.ahead + line), _MM_HINT_T1);
    }
    for (int pair = 0; pair < kHalfLines; ++pair, at += kPairBytes, high += kLine) {
      const bool inside = at < half.end;
      const F even = inside ? Pairs::even(at, half.end) : f_zero();
      const F odd = inside ? Pairs::odd(at, half.end) : f_zero();
      const I rounded = store_pairs(even, odd, high);
      store_pairs(_mm512_sub_ps(even, f_bf16_even(rounded)),
                  _mm512_sub_ps(odd, f_bf16_odd(rounded)), high + kExpandedPanelBytes);
    }
  }

  static constexpr Expansion kExpansion = {offset, expand, nullptr};
  static void multiply(const PackedTask& task) noexcept { multiply_tiles<2>(task, kExpansion); }
};

// 16 inputs from x + first on; those from k on are zeros.
F inputs(const float* x, int64_t first, int64_t k) {
  if (first + kLanes <= k) return f_load(x + first);
  if (first >= k) return f_zero();
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << (k - first)) - 1), x + first);
}

// 32 floats to nearest even.
I rounded(F low, F high) { return reinterpret_cast<I>(_mm512_cvtne2ps_pbh(high, low)); }

// One token's 32 k of each tile: lines at the distance of a tile.
void convert(const float* x, int64_t k, std::byte* out) noexcept {
  for (int64_t first = 0; first < k; first += kTileK, out += kTileBytes) {
    _mm512_store_si512(out, rounded(inputs(x, first, k), inputs(x, first + kLanes, k)));
  }
}

F widened(__m256i words) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16));
}

// The same, and what rounding took off as the low part.
void convert_split(const float* x, int64_t k, std::byte* out) noexcept {
  std::byte* low = out + tile_row_bytes(k) * kTileTokens;
  for (int64_t first = 0; first < k; first += kTileK, out += kTileBytes, low += kTileBytes) {
    const F a = inputs(x, first, k), b = inputs(x, first + kLanes, k);
    const I high = rounded(a, b);
    _mm512_store_si512(out, high);
    _mm512_store_si512(low, rounded(_mm512_sub_ps(a, widened(_mm512_castsi512_si256(high))),
                                    _mm512_sub_ps(b, widened(_mm512_extracti64x4_epi64(high, 1)))));
  }
}

template <class Expanded>
void slot(Kernels& kernels, DType dtype, Activation activation, int64_t min_tokens, int64_t min_k) {
  kernels.packed[static_cast<size_t>(dtype)].wide = {
      Expanded::multiply, activation, min_tokens, min_k, kSweepScratch, kSweepPanels};
}

}  // namespace

void paint_float_tiles(Kernels& kernels) {
  kernels.activations[static_cast<size_t>(Activation::kTiles)] = {
      [](int64_t k) noexcept { return tile_row_bytes(k); }, convert, kTileTokens};
  kernels.activations[static_cast<size_t>(Activation::kSplitTiles)] = {
      [](int64_t k) noexcept { return 2 * tile_row_bytes(k); }, convert_split, kTileTokens};
  slot<Bf16Expansion>(kernels, DType::kBF16, Activation::kTiles, kMinTokens, 0);
  slot<SplitExpansion<PairsF16>>(kernels, DType::kF16, Activation::kSplitTiles, kMinSplitTokens,
                                 kMinSplitK);
  slot<SplitExpansion<PairsF32>>(kernels, DType::kF32, Activation::kSplitTiles, kMinSplitTokens,
                                 kMinSplitK);
}

}  // namespace llama_rt::cpu::LLAMA_RT_TIER
