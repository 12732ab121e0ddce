// The tile of rows x tokens that multiplies quantized panels, written once over a ISA level's
// simd.h. Each (row, token) has one float accumulator that takes the groups in the order of k,
// with the same operations in every tile: its bits do not depend on the tile, the batch or the
// thread.
#pragma once

#include "cpu/kernels/gemm/quantized_formats.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {

// The inputs of a tile: token t's record at first + t * row_bytes.
struct Inputs {
  const std::byte* first;
  int64_t row_bytes;
  LLAMA_RT_INLINE const Q8Record& record(int t) const {
    return *reinterpret_cast<const Q8Record*>(first + t * row_bytes);
  }
};

// One tile: the rows of P parts from kFirst on, and T tokens.
template <class Format, int T, int P, int kFirst>
struct QuantizedTile {
  using Scales = typename Format::Scales;
  using Codes = typename Format::Codes;
  using Shape = typename Format::Shape;
  F sum[P][T];
  typename Scales::Header header[P];

  template <int p, int kQuad>
  static LLAMA_RT_INLINE void step(const std::byte* codes, const Inputs& x, Section (&dot)[P][T]) {
    const I quad = Codes::template quad<kQuad, kFirst + p>(codes);
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
      dot[p][t] = dot_step<Codes::kBits, kQuad>(dot[p][t], quad, x.record(t).q);
    }
    if constexpr (p + 1 < P) step<p + 1, kQuad>(codes, x, dot);
  }

  template <int p>
  LLAMA_RT_INLINE void read_headers(const std::byte* line) {
    header[p] = Scales::template header<kFirst + p>(line);
    if constexpr (p + 1 < P) read_headers<p + 1>(line);
  }

  // Quads [kQuad, kEnd) into whole-number sums.
  template <int kQuad, int kEnd>
  static LLAMA_RT_INLINE void sections(const std::byte* codes, const Inputs& x,
                                       Sum (&total)[P][T]) {
    if constexpr (kQuad < kEnd) {
      constexpr int kNext =
          kQuad + kSection<Codes::kBits> < kEnd ? kQuad + kSection<Codes::kBits> : kEnd;
      Section dot[P][T];
#pragma GCC unroll 16
      for (int i = 0; i < P * T; ++i) dot[i / T][i % T] = dot_open(total[i / T][i % T]);
      steps<kQuad, kNext>(codes, x, dot);
#pragma GCC unroll 16
      for (int i = 0; i < P * T; ++i) {
        total[i / T][i % T] = dot_close(total[i / T][i % T], dot[i / T][i % T]);
      }
      sections<kNext, kEnd>(codes, x, total);
    }
  }
  template <int kQuad, int kEnd>
  static LLAMA_RT_INLINE void steps(const std::byte* codes, const Inputs& x, Section (&dot)[P][T]) {
    if constexpr (kQuad < kEnd) {
      step<0, kQuad>(codes, x, dot);
      steps<kQuad + 1, kEnd>(codes, x, dot);
    }
  }

  // Where the whole-number sum of a group (or half of one) starts: minus the codes' offset.
  static LLAMA_RT_INLINE Sum start(int32_t sum8) {
    if constexpr (Format::kOffset == kNone || (Codes::kBits == 8 && kSignedBytes)) {
      return sum_from(i_zero());
    } else {
      return sum_from(i_times<Format::kOffset>(i_set(sum8)));
    }
  }

  template <int kInUnit>
  LLAMA_RT_INLINE void group(const std::byte* lines, const std::byte* codes, const Inputs& x) {
    if constexpr (Scales::kHalves == 1) {
      Sum total[P][T];
#pragma GCC unroll 16
      for (int i = 0; i < P * T; ++i) total[i / T][i % T] = start(x.record(i % T).sum8);
      sections<0, 8>(codes, x, total);
      add<0, kInUnit>(lines, x, total);
    } else if constexpr (Scales::kPaired) {
      Sum first[P][T], second[P][T];
      half_dots<0>(codes, x, first);
      half_dots<1>(codes, x, second);
      add_pairs<0, kInUnit>(lines, x, first, second);
    } else {
      F scaled[P][T];
      half<0, kInUnit>(lines, codes, x, scaled);
      half<1, kInUnit>(lines, codes, x, scaled);
#pragma GCC unroll 16
      for (int i = 0; i < P * T; ++i) {
        F& s = sum[i / T][i % T];
        s = f_fma(scaled[i / T][i % T], f_set(x.record(i % T).d), s);
      }
    }
  }

  template <int p, int kInUnit>
  LLAMA_RT_INLINE void add(const std::byte* lines, const Inputs& x, const Sum (&total)[P][T]) {
    F scale, min;
    Scales::template read<kInUnit, 0, kFirst + p>(header[p], lines, &scale, &min);
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
      const Q8Record& record = x.record(t);
      sum[p][t] = f_fma(f_of(sum_of(total[p][t])), f_mul(scale, f_set(record.d)), sum[p][t]);
      if constexpr (Scales::kMins) sum[p][t] = f_fma(min, f_set(record.scaled_sum), sum[p][t]);
    }
    if constexpr (p + 1 < P) add<p + 1, kInUnit>(lines, x, total);
  }

  template <int kHalf>
  static LLAMA_RT_INLINE void half_dots(const std::byte* codes, const Inputs& x,
                                        Sum (&total)[P][T]) {
#pragma GCC unroll 16
    for (int i = 0; i < P * T; ++i) {
      total[i / T][i % T] = start(x.record(i % T).half_sum8[kHalf]);
    }
    sections<4 * kHalf, 4 * kHalf + 4>(codes, x, total);
  }

  template <int p, int kInUnit>
  LLAMA_RT_INLINE void add_pairs(const std::byte* lines, const Inputs& x, const Sum (&first)[P][T],
                                 const Sum (&second)[P][T]) {
    I scales, mins;
    Scales::template read<kInUnit, kFirst + p>(lines, &scales, &mins);
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
      const Q8Record& record = x.record(t);
      const F d = f_set(record.d);
      const I pairs = i_pairs(sum_of(first[p][t]), sum_of(second[p][t]));
      const I dots = i_multiply_add(pairs, scales);
      sum[p][t] = f_fma(f_of(dots), f_mul(header[p].d, d), sum[p][t]);
      if constexpr (Scales::kMins) {
        int32_t halves;
        __builtin_memcpy(&halves, record.half_sum, sizeof(halves));
        const I subtracted = i_multiply_add(mins, i_set(halves));
        sum[p][t] = f_fma(f_of(subtracted), f_mul(header[p].negative_dmin, d), sum[p][t]);
      }
    }
    if constexpr (p + 1 < P) add_pairs<p + 1, kInUnit>(lines, x, first, second);
  }

  template <int kHalf, int kInUnit>
  LLAMA_RT_INLINE void half(const std::byte* lines, const std::byte* codes, const Inputs& x,
                            F (&scaled)[P][T]) {
    Sum total[P][T];
    half_dots<kHalf>(codes, x, total);
    scale_half<0, kHalf, kInUnit>(lines, total, scaled);
  }
  template <int p, int kHalf, int kInUnit>
  LLAMA_RT_INLINE void scale_half(const std::byte* lines, const Sum (&total)[P][T],
                                  F (&scaled)[P][T]) {
    F scale;
    Scales::template read<kInUnit, kHalf, kFirst + p>(header[p], lines, &scale, nullptr);
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
      const F dot = f_of(sum_of(total[p][t]));
      F& s = scaled[p][t];
      s = kHalf == 0 ? f_mul(dot, scale) : f_fma(dot, scale, s);
    }
    if constexpr (p + 1 < P) scale_half<p + 1, kHalf, kInUnit>(lines, total, scaled);
  }

  // Whether weights are fetched into the first cache: bytes would displace the inputs of many
  // tokens.
  static constexpr bool kNear = T <= 4 || Codes::kBits < 8;

  static LLAMA_RT_INLINE void prefetch_unit(const std::byte* w) {
#pragma GCC unroll 32
    for (int line = 0; line < Shape::kUnit; line += kLine) {
      __builtin_prefetch(w + kWeightsAhead + line, 0, 2);
      if constexpr (kNear) __builtin_prefetch(w + kWeightsNear + line, 0, 3);
    }
  }

  // `units` more units, from w and x on; `sum` holds what came before.
  LLAMA_RT_INLINE void run(const std::byte* w, Inputs x, int64_t units, bool prefetch) {
    for (int64_t u = 0; u < units; u += Shape::kUnitsPerHeader) {
      read_headers<0>(w);
      w += Shape::kHeader;
      for (int i = 0; i < Shape::kUnitsPerHeader; ++i) {
        // With one input a processor that follows a stream by itself is faster left alone.
        if (T > 1 || prefetch) prefetch_unit(w);
        group<0>(w, w + Shape::kScales, x);
        x.first += sizeof(Q8Record);
        group<1>(w, w + Shape::kScales + Shape::kCodes, x);
        x.first += sizeof(Q8Record);
        w += Shape::kUnit;
      }
    }
  }
};

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
