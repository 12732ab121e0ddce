// Stored quantized rows -> panels (layouts: panel.h). Codes and scales are moved, never
// rounded. Higher ISA levels read the same panels and inherit these slots.
#include <cstring>

#include "core/blocks.h"
#include "cpu/kernel_table.h"
#include "cpu/kernels/gemm/panel.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {

#include "core/codec.inl"

namespace {

// Codes travel as dot groups: the bytes of four consecutive k in one word, the first in its low
// byte.
inline uint32_t word(const uint8_t* p) {
  uint32_t w;
  std::memcpy(&w, p, sizeof(w));
  return w;
}
inline constexpr uint32_t kOnes = 0x01010101u;
inline uint32_t field(uint32_t quad, int shift, uint32_t mask) {
  return (quad >> shift) & (mask * kOnes);
}

inline void put_quad(std::byte* codes, int line, int row, uint32_t quad) {
  std::memcpy(codes + line * kLine + 4 * row, &quad, sizeof(quad));
}
// The low four bits of a group's eight dot groups.
inline void put_nibbles(std::byte* codes, int row, const uint32_t* q) {
  for (int v = 0; v < 4; ++v) {
    put_quad(codes, v, row, field(q[v], 0, 15) | field(q[v + 4], 0, 15) << 4);
  }
}
template <int kAt>  // bits kAt, kAt + 1 of half of them
inline void put_two_bits(std::byte* codes, int line, int row, const uint32_t* q) {
  uint32_t bits = 0;
  for (int v = 0; v < 4; ++v) bits |= field(q[v], kAt, 3) << (2 * v);
  put_quad(codes, line, row, bits);
}
template <int kAt>  // bit kAt
inline void put_one_bits(std::byte* codes, int row, const uint32_t* q) {
  uint32_t bits = 0;
  for (int v = 0; v < 8; ++v) bits |= field(q[v], kAt, 1) << v;
  put_quad(codes, 0, row, bits);
}

template <int kBits>
inline void put_codes(std::byte* codes, int row, const uint32_t* q) {
  if constexpr (kBits == 8) {
    for (int v = 0; v < 8; ++v) put_quad(codes, v, row, q[v]);
  } else if constexpr (kBits == 6) {
    put_two_bits<4>(codes, 0, row, q);
    put_nibbles(codes + kLine, row, q);
    put_two_bits<4>(codes, 5, row, q + 4);
  } else if constexpr (kBits >= 4) {
    if constexpr (kBits == 5) put_one_bits<4>(codes, row, q);
    put_nibbles(codes + (kBits - 4) * kLine, row, q);
  } else {
    if constexpr (kBits == 3) put_one_bits<2>(codes, row, q);
    put_two_bits<0>(codes, kBits - 2, row, q);
    put_two_bits<0>(codes, kBits - 1, row, q + 4);
  }
}

inline void put_u16(std::byte* at, int row, uint16_t value) {
  std::memcpy(at + 2 * row, &value, sizeof(value));
}
inline void put_u8(std::byte* at, int row, int value) { at[row] = static_cast<std::byte>(value); }

// Blocks of 32: eight dot groups of codes.
template <class Nibbles>
inline void nibbles_of(const Nibbles& b, uint32_t* q) {
  for (int v = 0; v < 4; ++v) {
    q[v] = field(word(b.qs + 4 * v), 0, 15);
    q[v + 4] = field(word(b.qs + 4 * v), 4, 15);
  }
}
inline void codes_of(const BlockQ4_0& b, uint32_t* q) { nibbles_of(b, q); }
inline void codes_of(const BlockQ4_1& b, uint32_t* q) { nibbles_of(b, q); }
inline void codes_of(const BlockIQ4_NL& b, uint32_t* q) { nibbles_of(b, q); }
template <class FiveBits>
inline void five_bits_of(const FiveBits& b, uint32_t* q) {
  nibbles_of(b, q);
  const uint32_t high = word(b.qh);
  for (int v = 0; v < 8; ++v) {  // bit i of four goes to bit 0 of byte i
    q[v] |= field(((high >> (4 * v)) & 15) * 0x00204081u, 0, 1) << 4;
  }
}
inline void codes_of(const BlockQ5_0& b, uint32_t* q) { five_bits_of(b, q); }
inline void codes_of(const BlockQ5_1& b, uint32_t* q) { five_bits_of(b, q); }
inline void codes_of(const BlockQ8_0& b, uint32_t* q) {
  std::memcpy(q, b.qs, sizeof(b.qs));
  for (int v = 0; v < 8; ++v) q[v] ^= 0x80u * kOnes;
}

template <class Block>
inline constexpr bool kHasMin = false;
template <>
inline constexpr bool kHasMin<BlockQ4_1> = true;
template <>
inline constexpr bool kHasMin<BlockQ5_1> = true;

template <class Block, class Shape, int kBits>
void pack_blocks(const std::byte* rows, int64_t row_bytes, int count, int64_t k,
                 std::byte* panel) noexcept {
  if (count < kPanelRows || k % (2 * kGroup) != 0) {
    std::memset(panel, 0, static_cast<size_t>(Shape::bytes(k)));
  }
  for (int64_t g = 0; g < k / kGroup; ++g) {
    std::byte* unit = panel + g / 2 * Shape::kUnit;
    std::byte* scales = unit + g % 2 * (kHasMin<Block> ? kLine : 32);
    std::byte* codes = unit + Shape::kScales + g % 2 * Shape::kCodes;
    for (int row = 0; row < count; ++row) {
      const Block block = block_at<Block>(rows + row * row_bytes, g);
      put_u16(scales, row, block.d);
      if constexpr (kHasMin<Block>) put_u16(scales + 32, row, block.m);
      uint32_t q[8];
      codes_of(block, q);
      put_codes<kBits>(codes, row, q);
    }
  }
}

// Blocks of 256: 64 dot groups of codes; header and scales of unit u.
inline void codes_of(const BlockQ2_K& b, uint32_t* q) {
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {  // halves x shifts
    for (int v = 0; v < 8; ++v) {
      q[8 * i + v] = field(word(b.qs + 32 * (i / 4) + 4 * v), 2 * (i % 4), 3);
    }
  }
}
inline void codes_of(const BlockQ3_K& b, uint32_t* q) {
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    for (int v = 0; v < 8; ++v) {
      q[8 * i + v] = field(word(b.qs + 32 * (i / 4) + 4 * v), 2 * (i % 4), 3) |
                     field(word(b.hmask + 4 * v), i, 1) << 2;
    }
  }
}
template <class Nibbles>
inline void k_nibbles_of(const Nibbles& b, uint32_t* q) {
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    for (int v = 0; v < 8; ++v) {
      q[8 * i + v] = field(word(b.qs + 32 * (i / 2) + 4 * v), 4 * (i % 2), 15);
    }
  }
}
inline void codes_of(const BlockQ4_K& b, uint32_t* q) { k_nibbles_of(b, q); }
inline void codes_of(const BlockQ5_K& b, uint32_t* q) {
  k_nibbles_of(b, q);
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    for (int v = 0; v < 8; ++v) q[8 * i + v] |= field(word(b.qh + 4 * v), i, 1) << 4;
  }
}
inline void codes_of(const BlockQ6_K& b, uint32_t* q) {
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const int half = i / 4, t = i % 4;
    for (int v = 0; v < 8; ++v) {
      const uint32_t low = word(b.ql + 64 * half + 32 * (t % 2) + 4 * v);
      const uint32_t high = word(b.qh + 32 * half + 4 * v);
      q[8 * i + v] = field(low, 4 * (t / 2), 15) | field(high, 2 * t, 3) << 4;
    }
  }
}

inline void codes_of(const BlockIQ4_XS& b, uint32_t* q) {
#pragma GCC unroll 8
  for (int s = 0; s < 8; ++s) {
    for (int v = 0; v < 4; ++v) {
      q[8 * s + v] = field(word(b.qs + 16 * s + 4 * v), 0, 15);
      q[8 * s + v + 4] = field(word(b.qs + 16 * s + 4 * v), 4, 15);
    }
  }
}

template <class Block>
inline void put_header(const Block& b, std::byte* line, int row) {
  put_u16(line, row, b.d);
  put_u16(line + 32, row, b.dmin);
}
inline void put_single(uint16_t half, std::byte* line, int row) {
  const float d = half_to_float(half);
  std::memcpy(line + 4 * row, &d, sizeof(d));
}
inline void put_header(const BlockQ3_K& b, std::byte* line, int row) { put_single(b.d, line, row); }
inline void put_header(const BlockQ6_K& b, std::byte* line, int row) { put_single(b.d, line, row); }
inline void put_header(const BlockIQ4_XS& b, std::byte* line, int row) {
  put_single(b.d, line, row);
  for (int s = 0; s < 8; ++s) put_u8(line + kLine + 16 * s, row, iq4_xs_scale(b, s));
}

template <class SixBitScales>
inline void put_sixths(const SixBitScales& b, int unit, std::byte* line, int row) {
#pragma GCC unroll 2
  for (int g = 0; g < 2; ++g) {
    int scale, min;
    q4_k_scale_min(b.scales, 2 * unit + g, &scale, &min);
    put_u8(line + 32 * g, row, scale);
    put_u8(line + 32 * g + 16, row, min);
  }
}
inline void put_scales(const BlockQ4_K& b, int unit, std::byte* line, int row) {
  put_sixths(b, unit, line, row);
}
inline void put_scales(const BlockQ5_K& b, int unit, std::byte* line, int row) {
  put_sixths(b, unit, line, row);
}
// A row's four, those of group 0 in the even bytes.
template <class ScaleOf>
inline void put_paired(ScaleOf scale_of, int unit, std::byte* line, int row) {
#pragma GCC unroll 4
  for (int s = 0; s < 4; ++s) {
    put_u8(line + 4 * row, 2 * (s % 2) + s / 2, scale_of(4 * unit + s));
  }
}
inline void put_scales(const BlockQ2_K& b, int unit, std::byte* line, int row) {
  put_paired([&](int s) { return b.scales[s]; }, unit, line, row);
}
inline void put_scales(const BlockQ3_K& b, int unit, std::byte* line, int row) {
  put_paired([&](int s) { return q3_k_scale(b.scales, s); }, unit, line, row);
}
inline void put_scales(const BlockQ6_K& b, int unit, std::byte* line, int row) {
  for (int s = 0; s < 4; ++s) put_u8(line + 16 * s, row, b.scales[4 * unit + s]);
}

inline void put_scales(const BlockIQ4_XS&, int, std::byte*, int) {}  // in the header

template <class Block, class Shape, int kBits>
void pack_super_blocks(const std::byte* rows, int64_t row_bytes, int count, int64_t k,
                       std::byte* panel) noexcept {
  if (count < kPanelRows) std::memset(panel, 0, static_cast<size_t>(Shape::bytes(k)));
  for (int64_t s = 0; s < k / kSuperBlock; ++s) {
    std::byte* header = panel + s * (Shape::kHeader + 4 * Shape::kUnit);
    for (int row = 0; row < count; ++row) {
      const Block block = block_at<Block>(rows + row * row_bytes, s);
      uint32_t q[64];
      codes_of(block, q);
      put_header(block, header, row);
#pragma GCC unroll 4
      for (int u = 0; u < 4; ++u) {
        std::byte* unit = header + Shape::kHeader + u * Shape::kUnit;
        put_scales(block, u, unit, row);
#pragma GCC unroll 2
        for (int g = 0; g < 2; ++g) {
          put_codes<kBits>(unit + Shape::kScales + g * Shape::kCodes, row, q + 8 * (2 * u + g));
        }
      }
    }
  }
}

template <class Shape>
constexpr void add(Kernels& kernels, DType dtype,
                   void (*pack)(const std::byte*, int64_t, int, int64_t, std::byte*) noexcept) {
  PackedFormat& format = kernels.packed[static_cast<size_t>(dtype)];
  format.panel_bytes = [](int64_t k) noexcept { return Shape::bytes(k); };
  format.pack = pack;
}

}  // namespace

constinit const Kernels kQuantizedPacking = [] {
  Kernels kernels;
  add<ShapeQ4_0>(kernels, DType::kQ4_0, pack_blocks<BlockQ4_0, ShapeQ4_0, 4>);
  add<ShapeQ4_1>(kernels, DType::kQ4_1, pack_blocks<BlockQ4_1, ShapeQ4_1, 4>);
  add<ShapeQ5_0>(kernels, DType::kQ5_0, pack_blocks<BlockQ5_0, ShapeQ5_0, 5>);
  add<ShapeQ5_1>(kernels, DType::kQ5_1, pack_blocks<BlockQ5_1, ShapeQ5_1, 5>);
  add<ShapeQ8_0>(kernels, DType::kQ8_0, pack_blocks<BlockQ8_0, ShapeQ8_0, 8>);
  add<ShapeQ2_K>(kernels, DType::kQ2_K, pack_super_blocks<BlockQ2_K, ShapeQ2_K, 2>);
  add<ShapeQ3_K>(kernels, DType::kQ3_K, pack_super_blocks<BlockQ3_K, ShapeQ3_K, 3>);
  add<ShapeQ4_K>(kernels, DType::kQ4_K, pack_super_blocks<BlockQ4_K, ShapeQ4_K, 4>);
  add<ShapeQ5_K>(kernels, DType::kQ5_K, pack_super_blocks<BlockQ5_K, ShapeQ5_K, 5>);
  add<ShapeQ6_K>(kernels, DType::kQ6_K, pack_super_blocks<BlockQ6_K, ShapeQ6_K, 6>);
  add<ShapeIQ4_NL>(kernels, DType::kIQ4_NL, pack_blocks<BlockIQ4_NL, ShapeIQ4_NL, 4>);
  add<ShapeIQ4_XS>(kernels, DType::kIQ4_XS, pack_super_blocks<BlockIQ4_XS, ShapeIQ4_XS, 4>);
  return kernels;
}();

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
