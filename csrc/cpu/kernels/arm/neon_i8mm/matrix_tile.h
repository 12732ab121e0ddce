// The tile of rows x tokens that multiplies quantized panels by matrix instructions: one multiplies
// two rows by two tokens over 8 k. Sums are blocks of two rows by two tokens, and each takes the
// same operations in the same order as in gemm/quantized_tile.h: the bits are those of a tile of
// vectors.
#pragma once

#include "cpu/kernel_table.h"
#include "cpu/kernels/arm/neon_i8mm/paired_inputs.h"
#include "cpu/kernels/gemm/quantized_formats.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {

// A block += 8 k of two rows times 8 k of two tokens.
template <int kBits>
LLAMA_RT_INLINE I multiply_blocks(I sum, I weights, int8x16_t inputs) {
  if constexpr (kBits == 8) return vusmmlaq_s32(sum, u8_of(weights), inputs);
  return vmmlaq_s32(sum, i8_of(weights), inputs);
}

// Quads kQuad and kQuad + 1 of a part's four rows as operands: [row 0, row 1] and [row 2, row 3].
struct Operands {
  I low, high;
};

// Operands from the codes of a panel.
template <class Codes>
struct PackedWeights {
  static constexpr bool kExpanded = false;
  template <int kQuad, int kPart>
  static LLAMA_RT_INLINE Operands operands(const std::byte* codes) {
    const I first = Codes::template quad<kQuad, kPart>(codes);
    const I second = Codes::template quad<kQuad + 1, kPart>(codes);
    return {vzip1q_s32(first, second), vzip2q_s32(first, second)};
  }
};
// Operands that were made before, for many tokens.
inline constexpr int64_t kOperandGroup = kPanelRows * kGroup;  // bytes
struct ExpandedWeights {
  static constexpr bool kExpanded = true;
  template <int kQuad, int kPart>
  static LLAMA_RT_INLINE Operands operands(const std::byte* group) {
    const std::byte* at = group + (kQuad / 2 * kParts + kPart) * 32;
    return {i_load(at), i_load(at + 16)};
  }
};
template <class Codes, int kQuad = 0, int kPart = 0>
LLAMA_RT_INLINE void expand_group(const std::byte* codes, std::byte* group) {
  const Operands made = PackedWeights<Codes>::template operands<kQuad, kPart>(codes);
  std::byte* at = group + (kQuad / 2 * kParts + kPart) * 32;
  vst1q_u8(reinterpret_cast<uint8_t*>(at), u8_of(made.low));
  vst1q_u8(reinterpret_cast<uint8_t*>(at + 16), u8_of(made.high));
  if constexpr (kPart + 1 < kParts) {
    expand_group<Codes, kQuad, kPart + 1>(codes, group);
  } else if constexpr (kQuad < 6) {
    expand_group<Codes, kQuad + 2, 0>(codes, group);
  }
}

// One value of each of four rows, in block order for the first two and the last two.
template <int kRowPair>
LLAMA_RT_INLINE F spread(F rows) {
  return kRowPair == 0 ? vzip1q_f32(rows, rows) : vzip2q_f32(rows, rows);
}
template <int kRowPair>
LLAMA_RT_INLINE I spread(I rows) {
  return kRowPair == 0 ? vzip1q_s32(rows, rows) : vzip2q_s32(rows, rows);
}

// kPairs pairs of tokens, the rows of P parts from kFirst on.
template <class Format, class Weights, int kPairs, int P, int kFirst>
struct MatrixTile {
  using Scales = typename Format::Scales;
  using Codes = typename Format::Codes;
  using Shape = typename Format::Shape;
  static constexpr int kRowPairs = 2 * P;
  using Blocks = I[kRowPairs][kPairs];

  // Token pair t's groups lie at first + t * stride.
  struct Inputs {
    const Q8Pair* first;
    int64_t stride;
    LLAMA_RT_INLINE const Q8Pair& pair(int t) const { return first[t * stride]; }
  };

  F sum[kRowPairs][kPairs];
  typename Scales::Header header[P];

  template <int kQuad, int p>
  static LLAMA_RT_INLINE void eight(const std::byte* codes, const int8x16_t (&x)[kPairs],
                                    Blocks& total) {
    const Operands w = Weights::template operands<kQuad, kFirst + p>(codes);
#pragma GCC unroll 4
    for (int t = 0; t < kPairs; ++t) {
      total[2 * p][t] = multiply_blocks<Codes::kBits>(total[2 * p][t], w.low, x[t]);
      total[2 * p + 1][t] = multiply_blocks<Codes::kBits>(total[2 * p + 1][t], w.high, x[t]);
    }
    if constexpr (p + 1 < P) eight<kQuad, p + 1>(codes, x, total);
  }

  // Quads [kQuad, kEnd), two at a time.
  template <int kQuad, int kEnd>
  static LLAMA_RT_INLINE void dots(const std::byte* codes, const Inputs& in, Blocks& total) {
    int8x16_t x[kPairs];
#pragma GCC unroll 4
    for (int t = 0; t < kPairs; ++t) x[t] = vld1q_s8(in.pair(t).q[kQuad / 2]);
    eight<kQuad, 0>(codes, x, total);
    if constexpr (kQuad + 2 < kEnd) dots<kQuad + 2, kEnd>(codes, in, total);
  }

  // Sums start at minus the codes' offset times the sum of inputs, `sums` of each pair.
  template <class Sums>
  static LLAMA_RT_INLINE void open(const Inputs& in, Sums sums, Blocks& total) {
#pragma GCC unroll 4
    for (int t = 0; t < kPairs; ++t) {
      I start = i_zero();
      if constexpr (Format::kOffset != kNone) {
        start = i_times<Format::kOffset>(vld1q_s32(sums(in.pair(t))));
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRowPairs; ++r) total[r][t] = start;
    }
  }

  template <int kInUnit>
  LLAMA_RT_INLINE void group(const std::byte* lines, const std::byte* codes, const Inputs& in) {
    if constexpr (Scales::kHalves == 1) {
      Blocks total;
      open(in, [](const Q8Pair& pair) { return pair.sum8; }, total);
      dots<0, 8>(codes, in, total);
      add<0, kInUnit>(lines, in, total);
    } else {
      Blocks first, second;
      open(in, [](const Q8Pair& pair) { return pair.half_sum8[0]; }, first);
      dots<0, 4>(codes, in, first);
      open(in, [](const Q8Pair& pair) { return pair.half_sum8[1]; }, second);
      dots<4, 8>(codes, in, second);
      if constexpr (Scales::kPaired) {
        add_paired<0, kInUnit>(lines, in, first, second);
      } else {
        add_halves<0, kInUnit>(lines, in, first, second);
      }
    }
  }

  template <int p, int kInUnit>
  LLAMA_RT_INLINE void add(const std::byte* lines, const Inputs& in, const Blocks& total) {
    F scale, min = f_zero();
    Scales::template read<kInUnit, 0, kFirst + p>(header[p], lines, &scale, &min);
    add_rows<2 * p>(spread<0>(scale), spread<0>(min), in, total);
    add_rows<2 * p + 1>(spread<1>(scale), spread<1>(min), in, total);
    if constexpr (p + 1 < P) add<p + 1, kInUnit>(lines, in, total);
  }
  template <int r>
  LLAMA_RT_INLINE void add_rows(F scale, F min, const Inputs& in, const Blocks& total) {
#pragma GCC unroll 4
    for (int t = 0; t < kPairs; ++t) {
      F& s = sum[r][t];
      s = f_fma(f_of(total[r][t]), f_mul(scale, f_load(in.pair(t).d)), s);
      if constexpr (Scales::kMins) s = f_fma(min, f_load(in.pair(t).scaled_sum), s);
    }
  }

  template <int p, int kInUnit>
  LLAMA_RT_INLINE void add_halves(const std::byte* lines, const Inputs& in, const Blocks& first,
                                  const Blocks& second) {
    F scale0, scale1;
    Scales::template read<kInUnit, 0, kFirst + p>(header[p], lines, &scale0, nullptr);
    Scales::template read<kInUnit, 1, kFirst + p>(header[p], lines, &scale1, nullptr);
    add_rows_of_halves<2 * p>(spread<0>(scale0), spread<0>(scale1), in, first, second);
    add_rows_of_halves<2 * p + 1>(spread<1>(scale0), spread<1>(scale1), in, first, second);
    if constexpr (p + 1 < P) add_halves<p + 1, kInUnit>(lines, in, first, second);
  }
  template <int r>
  LLAMA_RT_INLINE void add_rows_of_halves(F scale0, F scale1, const Inputs& in, const Blocks& first,
                                          const Blocks& second) {
#pragma GCC unroll 4
    for (int t = 0; t < kPairs; ++t) {
      const F scaled = f_fma(f_of(second[r][t]), scale1, f_mul(f_of(first[r][t]), scale0));
      sum[r][t] = f_fma(scaled, f_load(in.pair(t).d), sum[r][t]);
    }
  }

  template <int p, int kInUnit>
  LLAMA_RT_INLINE void add_paired(const std::byte* lines, const Inputs& in, const Blocks& first,
                                  const Blocks& second) {
    I scales, mins = i_zero();
    Scales::template read<kInUnit, kFirst + p>(lines, &scales, &mins);
    add_rows_of_paired<p, 0>(scales, mins, in, first, second);
    add_rows_of_paired<p, 1>(scales, mins, in, first, second);
    if constexpr (p + 1 < P) add_paired<p + 1, kInUnit>(lines, in, first, second);
  }
  template <int p, int kRowPair>
  LLAMA_RT_INLINE void add_rows_of_paired(I scales, I mins, const Inputs& in, const Blocks& first,
                                          const Blocks& second) {
    constexpr int r = 2 * p + kRowPair;
    scales = spread<kRowPair>(scales);
    mins = spread<kRowPair>(mins);
    const F scale = spread<kRowPair>(header[p].d);
#pragma GCC unroll 4
    for (int t = 0; t < kPairs; ++t) {
      const F d = f_load(in.pair(t).d);
      F& s = sum[r][t];
      const I dots = i_multiply_add(i_pairs(first[r][t], second[r][t]), scales);
      s = f_fma(f_of(dots), f_mul(scale, d), s);
      if constexpr (Scales::kMins) {
        const I halves = vreinterpretq_s32_s16(vld1q_s16(in.pair(t).half_sums));
        const F negative_dmin = spread<kRowPair>(header[p].negative_dmin);
        s = f_fma(f_of(i_multiply_add(mins, halves)), f_mul(negative_dmin, d), s);
      }
    }
  }

  template <int p>
  LLAMA_RT_INLINE void read_headers(const std::byte* line) {
    header[p] = Scales::template header<kFirst + p>(line);
    if constexpr (p + 1 < P) read_headers<p + 1>(line);
  }

  // `units` more units, from w and x on, with the operands at `expanded` if there are any; `sum`
  // holds what came before.
  LLAMA_RT_INLINE void run(const std::byte* w, const std::byte* expanded, Inputs x, int64_t units) {
    for (int64_t u = 0; u < units; u += Shape::kUnitsPerHeader) {
      read_headers<0>(w);
      w += Shape::kHeader;
      for (int i = 0; i < Shape::kUnitsPerHeader; ++i) {
        const std::byte* codes = Weights::kExpanded ? expanded : w + Shape::kScales;
        constexpr int64_t kNext = Weights::kExpanded ? kOperandGroup : Shape::kCodes;
        group<0>(w, codes, x);
        ++x.first;
        group<1>(w, codes + kNext, x);
        ++x.first;
        w += Shape::kUnit;
        expanded += 2 * kOperandGroup;
      }
    }
  }
};

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
