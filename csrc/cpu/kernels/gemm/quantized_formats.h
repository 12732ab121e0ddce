// How the codes and scales of each quantized format are read from a panel (layouts: panel.h), over
// a ISA level's simd.h.
#pragma once

#include <cstdint>

#include LLAMA_RT_SIMD
#include "cpu/kernels/gemm/panel.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {

// Codes of a group: quad kQuad (4 k) of part kPart (8 or 16 rows) as unsigned bytes; those of 8
// bits as signed ones where kSignedBytes says that they are multiplied so.
struct NibbleCodes {
  static constexpr int kBits = 4;
  template <int kQuad, int kPart>
  static LLAMA_RT_INLINE I quad(const std::byte* group) {
    const I bytes = i_load(group + kLine * (kQuad % 4) + 4 * kLanes * kPart);
    return i_bits<(kQuad < 4 ? 0 : 4), 4>(bytes);
  }
};
struct FiveBitCodes {
  static constexpr int kBits = 5;
  template <int kQuad, int kPart>
  static LLAMA_RT_INLINE I quad(const std::byte* group) {
    const I bits = i_load(group + 4 * kLanes * kPart);
    return i_merge(NibbleCodes::quad<kQuad, kPart>(group + kLine), i_move<4 - kQuad>(bits), 16);
  }
};
struct SixBitCodes {
  static constexpr int kBits = 6;
  template <int kQuad, int kPart>
  static LLAMA_RT_INLINE I quad(const std::byte* group) {
    const I bits = i_load(group + 5 * kLine * (kQuad / 4) + 4 * kLanes * kPart);
    return i_merge(NibbleCodes::quad<kQuad, kPart>(group + kLine),
                   i_move<4 - 2 * (kQuad % 4)>(bits), 48);
  }
};
struct TwoBitCodes {
  static constexpr int kBits = 2;
  template <int kQuad, int kPart>
  static LLAMA_RT_INLINE I quad(const std::byte* group) {
    return i_bits<2 * (kQuad % 4), 2>(i_load(group + kLine * (kQuad / 4) + 4 * kLanes * kPart));
  }
};
struct ThreeBitCodes {
  static constexpr int kBits = 3;
  template <int kQuad, int kPart>
  static LLAMA_RT_INLINE I quad(const std::byte* group) {
    const I bits = i_load(group + 4 * kLanes * kPart);
    return i_merge(TwoBitCodes::quad<kQuad, kPart>(group + kLine), i_move<2 - kQuad>(bits), 4);
  }
};
struct ByteCodes {
  static constexpr int kBits = 8;
  template <int kQuad, int kPart>
  static LLAMA_RT_INLINE I quad(const std::byte* group) {
    const I bytes = i_load(group + kLine * kQuad + 4 * kLanes * kPart);
    return kSignedBytes ? i_signed(bytes) : bytes;
  }
};

// Nibbles that stand for levels of IQ4_NL and IQ4_XS (core/codebooks.inl).
struct LevelBytes {
  uint8_t bytes[16] = {1,   24,  45,  63,  79,  93,  106, 118,  // level + 128
                       129, 141, 153, 166, 181, 197, 217, 241};
  constexpr LevelBytes() {
    if (!kSignedBytes) return;
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(byte ^ 128);
  }
};
inline constexpr LevelBytes kLevelBytes;
struct LevelCodes {
  static constexpr int kBits = 8;
  template <int kQuad, int kPart>
  static LLAMA_RT_INLINE I quad(const std::byte* group) {
    return i_lookup(kLevelBytes.bytes, NibbleCodes::quad<kQuad, kPart>(group));
  }
};

// Scales of group kInUnit (and half kHalf, where 16 k have their own), and what is added per input.
struct NoHeader {};
struct HalfScales {
  static constexpr int kHalves = 1;
  static constexpr bool kPaired = false;
  static constexpr bool kMins = false;
  using Header = NoHeader;
  template <int kPart>
  static LLAMA_RT_INLINE Header header(const std::byte*) {
    return {};
  }
  template <int kInUnit, int kHalf, int kPart>
  static LLAMA_RT_INLINE void read(const Header&, const std::byte* lines, F* scale, F*) {
    *scale = f_half(lines + 32 * kInUnit + 2 * kLanes * kPart);
  }
};
struct HalfScalesMins : HalfScales {
  static constexpr bool kMins = true;
  template <int kInUnit, int kHalf, int kPart>
  static LLAMA_RT_INLINE void read(const Header&, const std::byte* lines, F* scale, F* min) {
    *scale = f_half(lines + kLine * kInUnit + 2 * kLanes * kPart);
    *min = f_half(lines + kLine * kInUnit + 32 + 2 * kLanes * kPart);
  }
};
// The scale of a super-block, and that of its mins.
struct SuperScale {
  struct Header {
    F d;
  };
  template <int kPart>
  static LLAMA_RT_INLINE Header header(const std::byte* line) {
    return {f_load(reinterpret_cast<const float*>(line) + kLanes * kPart)};
  }
};
struct SuperScaleMin {
  struct Header {
    F d, negative_dmin;
  };
  template <int kPart>
  static LLAMA_RT_INLINE Header header(const std::byte* line) {
    return {f_half(line + 2 * kLanes * kPart),
            f_mul(f_half(line + 32 + 2 * kLanes * kPart), f_set(-1.0f))};
  }
};
struct SixBitScalesMins : SuperScaleMin {
  static constexpr int kHalves = 1;
  static constexpr bool kPaired = false;
  static constexpr bool kMins = true;
  template <int kInUnit, int kHalf, int kPart>
  static LLAMA_RT_INLINE void read(const Header& header, const std::byte* line, F* scale, F* min) {
    *scale = f_mul(header.d, f_u8<kPart>(line + 32 * kInUnit));
    *min = f_mul(header.negative_dmin, f_u8<kPart>(line + 32 * kInUnit + 16));
  }
};
// They are all in the header, where a unit's own are found by its distance from it.
struct ScalesPer32 {
  static constexpr int kHalves = 1;
  static constexpr bool kPaired = false;
  static constexpr bool kMins = false;
  struct Header {
    F d;
    const std::byte* line;
  };
  template <int kPart>
  static LLAMA_RT_INLINE Header header(const std::byte* line) {
    return {f_load(reinterpret_cast<const float*>(line) + kLanes * kPart), line};
  }
  template <int kInUnit, int kHalf, int kPart>
  static LLAMA_RT_INLINE void read(const Header& header, const std::byte* unit, F* scale, F*) {
    const int64_t index = (unit - header.line - ShapeIQ4_XS::kHeader) / ShapeIQ4_XS::kUnit;
    *scale = f_mul(header.d, f_i8<kPart>(header.line + kLine + 32 * index + 16 * kInUnit));
  }
};
struct ScalesPer16 : SuperScale {
  static constexpr int kHalves = 2;
  static constexpr bool kPaired = false;
  static constexpr bool kMins = false;
  template <int kInUnit, int kHalf, int kPart>
  static LLAMA_RT_INLINE void read(const Header& header, const std::byte* line, F* scale, F*) {
    *scale = f_mul(header.d, f_i8<kPart>(line + 32 * kInUnit + 16 * kHalf));
  }
};
// Whole-number scales of both halves of a group as 16-bit pairs, so that one multiply-add applies
// them to both dot products: these are small enough (|dot| <= 16 * 127 * 4) for 16 bits.
struct PairedScales : SuperScale {
  static constexpr int kHalves = 2;
  static constexpr bool kPaired = true;
  static constexpr bool kMins = false;
  template <int kInUnit, int kPart>
  static LLAMA_RT_INLINE void read(const std::byte* line, I* scales, I*) {
    const I bytes = i_load(line + 4 * kLanes * kPart);
    *scales = i_high_bytes(kInUnit == 0 ? i_move<8>(bytes) : bytes);
  }
};
struct PairedScalesMins : SuperScaleMin {
  static constexpr int kHalves = 2;
  static constexpr bool kPaired = true;
  static constexpr bool kMins = true;
  template <int kInUnit, int kPart>
  static LLAMA_RT_INLINE void read(const std::byte* line, I* scales, I* mins) {
    const I bytes = i_load(line + 4 * kLanes * kPart);
    const I fifteen = i_set(0x000f000f);
    *scales = i_and(i_move<-8 * kInUnit>(bytes), fifteen);
    *mins = i_and(i_move<-8 * kInUnit - 4>(bytes), fifteen);
  }
};

// kOffset8: log2(offset / 8) of the codes; kNone: they have mins instead.
inline constexpr int kNone = 100;
template <class PanelShapeOf, class CodesOf, class ScalesOf, int kOffset8>
struct QuantizedFormat {
  using Shape = PanelShapeOf;
  using Codes = CodesOf;
  using Scales = ScalesOf;
  static constexpr int kOffset = kOffset8;
};
using FormatQ4_0 = QuantizedFormat<ShapeQ4_0, NibbleCodes, HalfScales, 0>;
using FormatQ4_1 = QuantizedFormat<ShapeQ4_1, NibbleCodes, HalfScalesMins, kNone>;
using FormatQ5_0 = QuantizedFormat<ShapeQ5_0, FiveBitCodes, HalfScales, 1>;
using FormatQ5_1 = QuantizedFormat<ShapeQ5_1, FiveBitCodes, HalfScalesMins, kNone>;
using FormatQ8_0 = QuantizedFormat<ShapeQ8_0, ByteCodes, HalfScales, 4>;
using FormatQ2_K = QuantizedFormat<ShapeQ2_K, TwoBitCodes, PairedScalesMins, kNone>;
using FormatQ3_K = QuantizedFormat<ShapeQ3_K, ThreeBitCodes, PairedScales, -1>;
using FormatQ4_K = QuantizedFormat<ShapeQ4_K, NibbleCodes, SixBitScalesMins, kNone>;
using FormatQ5_K = QuantizedFormat<ShapeQ5_K, FiveBitCodes, SixBitScalesMins, kNone>;
using FormatQ6_K = QuantizedFormat<ShapeQ6_K, SixBitCodes, ScalesPer16, 2>;
using FormatIQ4_NL = QuantizedFormat<ShapeIQ4_NL, LevelCodes, HalfScales, 4>;
using FormatIQ4_XS = QuantizedFormat<ShapeIQ4_XS, LevelCodes, ScalesPer32, 4>;

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
