// Stored quantized rows -> panels (layouts: generic/panel.h). Codes and scales are moved, never
// rounded. Higher tiers read the same panels and inherit these slots.
#include <immintrin.h>

#include <cstring>

#include "core/blocks.h"
#include "cpu/kernels.h"
#include "cpu/tiers/avx2/paint.h"
#include "cpu/tiers/generic/panel.h"

namespace llama_rt::cpu::LLAMA_RT_TIER {

#include "core/decode.inl"

namespace {


// Four bytes of one row into line `line` of a group.
inline void put_row(std::byte* codes, int line, int row, const uint8_t* bytes) {
  std::memcpy(codes + line * kLine + 4 * row, bytes, 4);
}

// The low four bits of 32 codes.
inline void put_nibbles(std::byte* codes, int row, const uint8_t* q) {
  uint8_t bytes[16];
  for (int i = 0; i < 16; ++i) bytes[i] = static_cast<uint8_t>((q[i] & 15) | q[i + 16] << 4);
  for (int line = 0; line < 4; ++line) put_row(codes, line, row, bytes + 4 * line);
}
// Bits kAt, kAt + 1 of 32 codes.
template <int kAt>
inline void put_two_bits(std::byte* codes, int row, const uint8_t* q) {
  for (int line = 0; line < 2; ++line) {
    uint8_t bytes[4];
    for (int i = 0; i < 4; ++i) {
      int b = 0;
      for (int v = 0; v < 4; ++v) b |= ((q[16 * line + 4 * v + i] >> kAt) & 3) << (2 * v);
      bytes[i] = static_cast<uint8_t>(b);
    }
    put_row(codes, line, row, bytes);
  }
}
// Bit kAt of 32 codes.
template <int kAt>
inline void put_one_bits(std::byte* codes, int row, const uint8_t* q) {
  uint8_t bytes[4];
  for (int i = 0; i < 4; ++i) {
    int b = 0;
    for (int v = 0; v < 8; ++v) b |= ((q[4 * v + i] >> kAt) & 1) << v;
    bytes[i] = static_cast<uint8_t>(b);
  }
  put_row(codes, 0, row, bytes);
}

template <int kBits>
inline void put_codes(std::byte* codes, int row, const uint8_t* q) {
  if constexpr (kBits == 8) {
    for (int line = 0; line < 8; ++line) put_row(codes, line, row, q + 4 * line);
  } else if constexpr (kBits >= 4) {
    put_nibbles(codes, row, q);
    if constexpr (kBits == 5) put_one_bits<4>(codes + 4 * kLine, row, q);
    if constexpr (kBits == 6) put_two_bits<4>(codes + 4 * kLine, row, q);
  } else {
    put_two_bits<0>(codes, row, q);
    if constexpr (kBits == 3) put_one_bits<2>(codes + 2 * kLine, row, q);
  }
}

inline void put_u16(std::byte* at, int row, uint16_t value) {
  std::memcpy(at + 2 * row, &value, sizeof(value));
}
inline void put_u8(std::byte* at, int row, int value) { at[row] = static_cast<std::byte>(value); }

// Blocks of 32: the codes in the order of k, and the scales of group g of a unit.
inline void codes_of(const BlockQ4_0& b, uint8_t* q) {
  for (int i = 0; i < 16; ++i) {
    q[i] = b.qs[i] & 15;
    q[i + 16] = b.qs[i] >> 4;
  }
}
inline void codes_of(const BlockQ4_1& b, uint8_t* q) {
  for (int i = 0; i < 16; ++i) {
    q[i] = b.qs[i] & 15;
    q[i + 16] = b.qs[i] >> 4;
  }
}
template <class FiveBits>
inline void five_bit_codes(const FiveBits& b, uint8_t* q) {
  for (int i = 0; i < 16; ++i) {
    q[i] = static_cast<uint8_t>((b.qs[i] & 15) | fifth_bit(b.qh, i));
    q[i + 16] = static_cast<uint8_t>(b.qs[i] >> 4 | fifth_bit(b.qh, i + 16));
  }
}
inline void codes_of(const BlockQ5_0& b, uint8_t* q) { five_bit_codes(b, q); }
inline void codes_of(const BlockQ5_1& b, uint8_t* q) { five_bit_codes(b, q); }
inline void codes_of(const BlockQ8_0& b, uint8_t* q) {
  for (int i = 0; i < kBlock; ++i) q[i] = static_cast<uint8_t>(b.qs[i] ^ -128);
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
      const Block& block = reinterpret_cast<const Block*>(rows + row * row_bytes)[g];
      put_u16(scales, row, block.d);
      if constexpr (kHasMin<Block>) put_u16(scales + 32, row, block.m);
      uint8_t q[kGroup];
      codes_of(block, q);
      put_codes<kBits>(codes, row, q);
    }
  }
}

// Blocks of 256: all codes in the order of k; header and scales of unit u.
inline void codes_of(const BlockQ2_K& b, uint8_t* q) {
  for (int i = 0; i < kSuperBlock; ++i) {
    q[i] = (b.qs[i / 128 * 32 + i % 32] >> (2 * (i % 128 / 32))) & 3;
  }
}
inline void codes_of(const BlockQ3_K& b, uint8_t* q) {
  for (int i = 0; i < kSuperBlock; ++i) {
    const int low = (b.qs[i / 128 * 32 + i % 32] >> (2 * (i % 128 / 32))) & 3;
    const int high = (b.hmask[i % 32] >> (i / 32)) & 1;
    q[i] = static_cast<uint8_t>(low | high << 2);
  }
}
inline void codes_of(const BlockQ4_K& b, uint8_t* q) {
  for (int i = 0; i < kSuperBlock; ++i) {
    q[i] = (b.qs[i / 64 * 32 + i % 32] >> (4 * (i % 64 / 32))) & 15;
  }
}
inline void codes_of(const BlockQ5_K& b, uint8_t* q) {
  for (int i = 0; i < kSuperBlock; ++i) {
    const int low = (b.qs[i / 64 * 32 + i % 32] >> (4 * (i % 64 / 32))) & 15;
    q[i] = static_cast<uint8_t>(low | ((b.qh[i % 32] >> (i / 32)) & 1) << 4);
  }
}
inline void codes_of(const BlockQ6_K& b, uint8_t* q) {
  for (int i = 0; i < kSuperBlock; ++i) {
    const int half = i / 128, t = i % 128 / 32, l = i % 32;
    const int low = (b.ql[64 * half + 32 * (t % 2) + l] >> (4 * (t / 2))) & 15;
    q[i] = static_cast<uint8_t>(low | ((b.qh[32 * half + l] >> (2 * t)) & 3) << 4);
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

template <class SixBitScales>
inline void put_sixths(const SixBitScales& b, int unit, std::byte* line, int row) {
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
inline void put_scales(const BlockQ2_K& b, int unit, std::byte* line, int row) {
  for (int s = 0; s < 4; ++s) put_u8(line + 16 * s, row, b.scales[4 * unit + s]);
}
inline void put_scales(const BlockQ3_K& b, int unit, std::byte* line, int row) {
  for (int s = 0; s < 4; ++s) put_u8(line + 16 * s, row, q3_k_scale(b.scales, 4 * unit + s));
}
inline void put_scales(const BlockQ6_K& b, int unit, std::byte* line, int row) {
  for (int s = 0; s < 4; ++s) put_u8(line + 16 * s, row, b.scales[4 * unit + s]);
}

template <class Block, class Shape, int kBits>
void pack_super_blocks(const std::byte* rows, int64_t row_bytes, int count, int64_t k,
                       std::byte* panel) noexcept {
  if (count < kPanelRows) std::memset(panel, 0, static_cast<size_t>(Shape::bytes(k)));
  for (int64_t s = 0; s < k / kSuperBlock; ++s) {
    std::byte* header = panel + s * (Shape::kHeader + 4 * Shape::kUnit);
    for (int row = 0; row < count; ++row) {
      const Block& block = reinterpret_cast<const Block*>(rows + row * row_bytes)[s];
      uint8_t q[kSuperBlock];
      codes_of(block, q);
      put_header(block, header, row);
      for (int u = 0; u < 4; ++u) {
        std::byte* unit = header + Shape::kHeader + u * Shape::kUnit;
        put_scales(block, u, unit, row);
        for (int g = 0; g < 2; ++g) {
          put_codes<kBits>(unit + Shape::kScales + g * Shape::kCodes, row,
                           q + kGroup * (2 * u + g));
        }
      }
    }
  }
}

template <class Shape>
void slot(Kernels& kernels, DType dtype,
          void (*pack)(const std::byte*, int64_t, int, int64_t, std::byte*) noexcept) {
  PackedFormat& format = kernels.packed[static_cast<size_t>(dtype)];
  format.panel_bytes = [](int64_t k) noexcept { return Shape::bytes(k); };
  format.pack = pack;
}

}  // namespace

void paint_quantized_packing(Kernels& kernels) {
  slot<ShapeQ4_0>(kernels, DType::kQ4_0, pack_blocks<BlockQ4_0, ShapeQ4_0, 4>);
  slot<ShapeQ4_1>(kernels, DType::kQ4_1, pack_blocks<BlockQ4_1, ShapeQ4_1, 4>);
  slot<ShapeQ5_0>(kernels, DType::kQ5_0, pack_blocks<BlockQ5_0, ShapeQ5_0, 5>);
  slot<ShapeQ5_1>(kernels, DType::kQ5_1, pack_blocks<BlockQ5_1, ShapeQ5_1, 5>);
  slot<ShapeQ8_0>(kernels, DType::kQ8_0, pack_blocks<BlockQ8_0, ShapeQ8_0, 8>);
  slot<ShapeQ2_K>(kernels, DType::kQ2_K, pack_super_blocks<BlockQ2_K, ShapeQ2_K, 2>);
  slot<ShapeQ3_K>(kernels, DType::kQ3_K, pack_super_blocks<BlockQ3_K, ShapeQ3_K, 3>);
  slot<ShapeQ4_K>(kernels, DType::kQ4_K, pack_super_blocks<BlockQ4_K, ShapeQ4_K, 4>);
  slot<ShapeQ5_K>(kernels, DType::kQ5_K, pack_super_blocks<BlockQ5_K, ShapeQ5_K, 5>);
  slot<ShapeQ6_K>(kernels, DType::kQ6_K, pack_super_blocks<BlockQ6_K, ShapeQ6_K, 6>);
}

}  // namespace llama_rt::cpu::LLAMA_RT_TIER
