// Layouts shared by all ISA levels: weights in panels of 16 rows, inputs in 8-bit records. Every
// vector of codes is one cache line with 4 bytes per row, so that a dot-product instruction meets
// the same four k (a quad) of 16 rows; scales precede the codes they belong to in the same stream.
//
// Quantized panels are a sequence of units of 64 k, two groups of 32:
//   unit   = scale lines, codes of group 0, codes of group 1
//   super  = header lines, 4 units (K formats only)
// In the lines of a group, byte i of row r's four belongs to k = 4 * quad + i:
//   nibble lines 0..3   low nibble: quad v of line v; high nibble: quad v + 4
//   two-bit lines 0..1  bits 2v, 2v + 1: quad v + 4 * line
//   one-bit line        bit v: quad v
//   byte lines 0..7     quad v of line v, as q + 128
// They lie in the order in which dot groups 0..7 meet them, which is what a processor's own
// prefetching follows best:
//   3 bits  one-bit line, two-bit lines
//   5 bits  one-bit line, nibble lines
//   6 bits  two-bit line 0, nibble lines, two-bit line 1
// Scale lines, for 16 rows each:
//   halves              f16 scale of group 0, of group 1                      (one line)
//   halves with mins    f16 scale and f16 min of a group                      (one line per group)
//   6-bit scales, mins    u8 scale, u8 min of group 0, of group 1; header: f16 d, f16 dmin
//   per 32 k            none; header: f32 d, then i8 scale of each of its 8 groups
//   per 16 k            i8 scale of each 16 k; header: f32 d
//   per 16 k, paired     each row's i8 scales of 16 k in one word, group 0 in its even bytes;
//                       header: f32 d. With mins: u8 (scale | min << 4); header: f16 d, f16 dmin
// Float panels: f32 one line per k; f16 one line per two k, 16 rows each; bf16 one line per two k,
// each row's pair in one 32-bit word, the even k in its low half.
#pragma once

#include <cstddef>
#include <cstdint>

namespace llama_rt::cpu::LLAMA_RT_LEVEL {

inline constexpr int kLine = 64;
inline constexpr int kGroup = 32;  // k that share an input scale
// Bytes of prefetch, in all streams together: into the second cache and, nearer, into the first.
inline constexpr int64_t kWeightsAhead = 8192;
inline constexpr int64_t kWeightsNear = 2048;

// A group of 32 inputs x ~ d * q, |q| <= 127. Offsets of codes are taken from whole-number sums, as
// -8 * sum because most offsets are that times a power of two; mins from the scaled sum or, where
// they are whole numbers, from the sums of 16.
struct Q8Record {
  int8_t q[kGroup];
  float d;
  float scaled_sum;      // d * sum of q
  int32_t sum8;          // -8 * sum of q
  int32_t half_sum8[2];  // -8 * sum of each 16
  int16_t half_sum[2];
};
static_assert(sizeof(Q8Record) == 56);

// Groups are paired in panels, so a record of zeros follows an odd last one.
inline int64_t q8_records(int64_t k) { return (k + 2 * kGroup - 1) / (2 * kGroup) * 2; }
inline int64_t q8_row_bytes(int64_t k) {
  const int64_t bytes = q8_records(k) * static_cast<int64_t>(sizeof(Q8Record));
  return (bytes + kLine - 1) / kLine * kLine;
}
inline int64_t f32_row_bytes(int64_t k) { return (k + 15) / 16 * kLine; }
inline int64_t bf16_row_bytes(int64_t k) { return (k + 31) / 32 * kLine; }

// Lines of a quantized panel.
template <int kHeaderLines, int kUnits, int kScaleLines, int kGroupLines>
struct PanelShape {
  static constexpr int kHeader = kHeaderLines * kLine;  // bytes, before each kUnits units
  static constexpr int kUnitsPerHeader = kUnits;
  static constexpr int kScales = kScaleLines * kLine;
  static constexpr int kCodes = kGroupLines * kLine;  // of one group
  static constexpr int kUnit = kScales + 2 * kCodes;
  static int64_t units(int64_t k) { return (k + 2 * kGroup - 1) / (2 * kGroup); }
  static int64_t offset(int64_t unit) {  // of a unit that starts a header's range
    return unit / kUnits * (kHeader + int64_t{kUnits} * kUnit);
  }
  static int64_t bytes(int64_t k) { return offset(units(k)); }
};
using ShapeQ4_0 = PanelShape<0, 1, 1, 4>;
using ShapeQ4_1 = PanelShape<0, 1, 2, 4>;
using ShapeQ5_0 = PanelShape<0, 1, 1, 5>;
using ShapeQ5_1 = PanelShape<0, 1, 2, 5>;
using ShapeQ8_0 = PanelShape<0, 1, 1, 8>;
using ShapeQ2_K = PanelShape<1, 4, 1, 2>;
using ShapeQ3_K = PanelShape<1, 4, 1, 3>;
using ShapeQ4_K = PanelShape<1, 4, 1, 4>;
using ShapeQ5_K = PanelShape<1, 4, 1, 5>;
using ShapeQ6_K = PanelShape<1, 4, 1, 6>;
using ShapeIQ4_NL = PanelShape<0, 1, 1, 4>;
using ShapeIQ4_XS = PanelShape<3, 4, 0, 4>;

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
