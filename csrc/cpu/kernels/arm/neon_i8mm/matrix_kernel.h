// Products with quantized panels: one token by the dot product of vectors, more by matrices, which
// take two tokens at once. Blocks of k, panels and tokens stay in the caches; for more tokens than
// a tile has, the codes of a panel become operands once for all of them.
#pragma once

#include "cpu/kernels/arm/neon_i8mm/matrix_tile.h"
#include "cpu/kernels/gemm/quantized_gemm.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {

template <class Format>
class MatrixKernel {
 public:
  static void multiply(const PackedMatmulTask& task) noexcept {
    if (task.n == 1) {
      QuantizedKernel<Format>::multiply(task);
    } else {
      MatrixKernel(task).run();
    }
  }

 private:
  using Shape = typename Format::Shape;
  static constexpr int64_t kPairsOfTile = 4;
  static constexpr int64_t kPairsOfBlock = 32;
  static constexpr int64_t kPanelsOfBlock = 8;
  static constexpr int64_t kUnits = 8;  // of a block: 512 k, whole super-blocks
  static constexpr int64_t kGroups = 2 * kUnits;
  // The blocks of sums of a panel and a pair of tokens: two rows each.
  static constexpr int kBlocksOfPanel = kPanelRows / 2;

  explicit MatrixKernel(const PackedMatmulTask& task) : t_(task), units_(Shape::units(task.k)) {}

  void run() {
    const int64_t pairs = (t_.n + 1) / 2;
    for (int64_t pair = 0; pair < pairs; pair += kPairsOfBlock) {
      first_pair_ = pair;
      pairs_ = pairs - pair < kPairsOfBlock ? pairs - pair : kPairsOfBlock;
      for (int64_t panel = t_.first_panel; panel < t_.last_panel; panel += kPanelsOfBlock) {
        const int64_t left = t_.last_panel - panel;
        block_of_panels(panel, panel + (left < kPanelsOfBlock ? left : kPanelsOfBlock));
      }
    }
  }

  void block_of_panels(int64_t panel, int64_t panel_end) {
    for (int64_t unit = 0; unit < units_; unit += kUnits) {
      const int64_t units = units_ - unit < kUnits ? units_ - unit : kUnits;
      pair_block(unit, units);
      for (int64_t p = panel; p < panel_end; ++p) {
        const std::byte* w = t_.weight + p * t_.panel_bytes + Shape::offset(unit);
        F(*sums)[kBlocksOfPanel] = sums_ + (p - panel) * kPairsOfBlock;
        if (unit == 0) std::memset(sums, 0, sizeof(F[kBlocksOfPanel]) * kPairsOfBlock);
        if (pairs_ > kPairsOfTile) {
          decode_unit(w, units);
          for (int64_t pair = 0; pair < pairs_; pair += kPairsOfTile) {
            tile<ExpandedWeights, 4, 2>(w, units, pair, sums);
          }
        } else if (pairs_ > 2) {
          tile<PackedWeights<typename Format::Codes>, 4, 2>(w, units, 0, sums);
        } else {
          tile<PackedWeights<typename Format::Codes>, 2, 4>(w, units, 0, sums);
        }
        if (unit + units >= units_) put_sums(p, sums);
      }
    }
  }

  // The inputs of a block by pairs, with zeros up to whole tiles.
  void pair_block(int64_t unit, int64_t units) {
    const int64_t row_bytes = q8_row_bytes(t_.k);
    const std::byte* rows = t_.x + unit * 2 * static_cast<int64_t>(sizeof(Q8Record));
    for (int64_t pair = 0; pair < pairs_; ++pair) {
      const int64_t token = 2 * (first_pair_ + pair);
      const auto* first = reinterpret_cast<const Q8Record*>(rows + token * row_bytes);
      const auto* second = reinterpret_cast<const Q8Record*>(rows + (token + 1) * row_bytes);
      for (int64_t g = 0; g < 2 * units; ++g) {
        pair_inputs(first[g], token + 1 < t_.n ? second + g : nullptr, &inputs_[pair][g]);
      }
    }
    const int64_t end = (pairs_ + kPairsOfTile - 1) / kPairsOfTile * kPairsOfTile;
    for (int64_t pair = pairs_; pair < end; ++pair) {
      std::memset(inputs_[pair], 0, sizeof(inputs_[pair]));
    }
  }

  void decode_unit(const std::byte* w, int64_t units) {
    std::byte* to = operands_;
    for (int64_t u = 0; u < units; ++u) {
      if (u % Shape::kUnitsPerHeader == 0) w += Shape::kHeader;
      expand_group<typename Format::Codes>(w + Shape::kScales, to);
      expand_group<typename Format::Codes>(w + Shape::kScales + Shape::kCodes, to + kOperandGroup);
      w += Shape::kUnit;
      to += 2 * kOperandGroup;
    }
  }

  // P parts of the rows at a time.
  template <class Weights, int kPairs, int P, int kFirst = 0>
  void tile(const std::byte* w, int64_t units, int64_t pair, F (*sums)[kBlocksOfPanel]) {
    MatrixTile<Format, Weights, kPairs, P, kFirst> tile_of_rows;
#pragma GCC unroll 16
    for (int i = 0; i < 2 * P * kPairs; ++i) {
      tile_of_rows.sum[i / kPairs][i % kPairs] = sums[pair + i % kPairs][2 * kFirst + i / kPairs];
    }
    tile_of_rows.run(w, operands_, {inputs_[pair], kGroups}, units);
#pragma GCC unroll 16
    for (int i = 0; i < 2 * P * kPairs; ++i) {
      sums[pair + i % kPairs][2 * kFirst + i / kPairs] = tile_of_rows.sum[i / kPairs][i % kPairs];
    }
    if constexpr (kFirst + P < kParts) tile<Weights, kPairs, P, kFirst + P>(w, units, pair, sums);
  }

  void put_sums(int64_t panel, const F (*sums)[kBlocksOfPanel]) {
    const Chunk whole;
    for (int64_t pair = 0; pair < pairs_; ++pair) {
      const int64_t token = 2 * (first_pair_ + pair);
      for (int part = 0; part < kParts; ++part) {
        const F low = sums[pair][2 * part], high = sums[pair][2 * part + 1];
        put(t_, whole, panel, part, token, vuzp1q_f32(low, high));
        if (token + 1 < t_.n) put(t_, whole, panel, part, token + 1, vuzp2q_f32(low, high));
      }
    }
  }

  const PackedMatmulTask& t_;
  const int64_t units_;
  int64_t first_pair_ = 0;  // of the block of tokens
  int64_t pairs_ = 0;
  Q8Pair inputs_[kPairsOfBlock][kGroups];
  F sums_[kPanelsOfBlock * kPairsOfBlock][kBlocksOfPanel];
  alignas(64) std::byte operands_[kUnits * 2 * kOperandGroup];
};

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
