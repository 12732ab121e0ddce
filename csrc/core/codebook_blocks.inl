// Blocks whose codes stand for entries of a table: y = scale * level, both exact in float32 before
// the one product. Included by codec.inl and by cuda/device/blocks.cuh inside their namespaces,
// which define LLAMA_RT_CODEBOOK (what a table is declared as), LLAMA_RT_DECODER (a function) and
// half_to_float. An octet is eight elements that share a scale.

#include "core/codebooks.inl"

// Bits [at, at + count) of a word.
LLAMA_RT_DECODER int bits_of(uint32_t word, int at, int count) {
  return static_cast<int>((word >> at) & ((1u << count) - 1u));
}
LLAMA_RT_DECODER float signed_level(int level, uint32_t signs, int j) {
  return static_cast<float>(bits_of(signs, j, 1) ? -level : level);
}
// Eight signs of which seven are stored: their number is even.
LLAMA_RT_DECODER uint32_t even_signs(uint32_t seven) {
  uint32_t parity = seven ^ (seven >> 4);
  parity ^= parity >> 2;
  parity ^= parity >> 1;
  return seven | (parity & 1u) << 7;
}
LLAMA_RT_DECODER uint32_t u32_of(uint16_t low, uint16_t high) {
  return low | static_cast<uint32_t>(high) << 16;
}
LLAMA_RT_DECODER uint32_t u32_of(const uint8_t* p) {
  return p[0] | static_cast<uint32_t>(p[1]) << 8 | static_cast<uint32_t>(p[2]) << 16 |
         static_cast<uint32_t>(p[3]) << 24;
}

// ---- Levels of 8, 25 and 43 with signs ---------------------------------------------------------

LLAMA_RT_DECODER int level_of_two_bits(uint32_t entry, int j) {
  const int code = bits_of(entry, 2 * j, 2);
  return 8 + 17 * code + (code >> 1);
}
LLAMA_RT_DECODER float quarter_scale(uint16_t d, int scale) {
  return half_to_float(d) * (0.5f + static_cast<float>(scale)) * 0.25f;
}

LLAMA_RT_DECODER float codebook_scale(const BlockIQ2_XXS& b, int octet) {
  return quarter_scale(b.d, b.qs[octet / 4 * 4 + 3] >> 12);
}
LLAMA_RT_DECODER float codebook_level(const BlockIQ2_XXS& b, int e) {
  const int octet = e / 8, group = octet / 4 * 4, k = octet % 4;
  const int index = bits_of(b.qs[group + k / 2], k % 2 * 8, 8);
  const uint32_t signs = u32_of(b.qs[group + 2], b.qs[group + 3]) >> (7 * k);
  return signed_level(level_of_two_bits(kIq2XxsGrid[index], e % 8), even_signs(signs & 127u),
                      e % 8);
}

LLAMA_RT_DECODER float codebook_scale(const BlockIQ2_XS& b, int octet) {
  return quarter_scale(b.d, bits_of(b.scales[octet / 4], octet / 2 % 2 * 4, 4));
}
LLAMA_RT_DECODER float codebook_level(const BlockIQ2_XS& b, int e) {
  const uint32_t q = b.qs[e / 8];
  return signed_level(level_of_two_bits(kIq2XsGrid[q & 511u], e % 8), even_signs(q >> 9), e % 8);
}

LLAMA_RT_DECODER float codebook_scale(const BlockIQ2_S& b, int octet) {
  return quarter_scale(b.d, bits_of(b.scales[octet / 4], octet / 2 % 2 * 4, 4));
}
LLAMA_RT_DECODER float codebook_level(const BlockIQ2_S& b, int e) {
  const int octet = e / 8;
  const int index = b.qs[octet] | bits_of(b.qh[octet / 4], octet % 4 * 2, 2) << 8;
  return signed_level(level_of_two_bits(kIq2SGrid[index], e % 8), b.signs[octet], e % 8);
}

// ---- Eight levels with signs -------------------------------------------------------------------

LLAMA_RT_DECODER float codebook_scale(const BlockIQ3_XXS& b, int octet) {
  const uint32_t group = u32_of(b.signs + octet / 4 * 4);
  return half_to_float(b.d) * (0.5f + static_cast<float>(group >> 28)) * 0.5f;
}
LLAMA_RT_DECODER float codebook_level(const BlockIQ3_XXS& b, int e) {
  const int octet = e / 8, code = bits_of(kIq3XxsGrid[b.qs[e / 4]], e % 4 * 3, 3);
  const uint32_t signs = u32_of(b.signs + octet / 4 * 4) >> (octet % 4 * 7);
  return signed_level(4 + 8 * code + (code == 7 ? 2 : 0), even_signs(signs & 127u), e % 8);
}

LLAMA_RT_DECODER float codebook_scale(const BlockIQ3_S& b, int octet) {
  const int scale = bits_of(b.scales[octet / 8], octet / 4 % 2 * 4, 4);
  return half_to_float(b.d) * static_cast<float>(1 + 2 * scale);
}
LLAMA_RT_DECODER float codebook_level(const BlockIQ3_S& b, int e) {
  const int index = b.qs[e / 4] | bits_of(b.qh[e / 32], e / 4 % 8, 1) << 8;
  return signed_level(1 + 2 * bits_of(kIq3SGrid[index], e % 4 * 3, 3), b.signs[e / 8], e % 8);
}

// ---- -1, 0 and 1, moved by an eighth -----------------------------------------------------------

LLAMA_RT_DECODER float moved_level(int index, int j, bool down) {
  return static_cast<float>(bits_of(kIq1Grid[index], 2 * j, 2) - 1) + (down ? -0.125f : 0.125f);
}

LLAMA_RT_DECODER float codebook_scale(const BlockIQ1_S& b, int octet) {
  return half_to_float(b.d) * static_cast<float>(2 * bits_of(b.qh[octet / 4], 12, 3) + 1);
}
LLAMA_RT_DECODER float codebook_level(const BlockIQ1_S& b, int e) {
  const int octet = e / 8;
  const uint32_t high = b.qh[octet / 4];
  const int index = b.qs[octet] | bits_of(high, octet % 4 * 3, 3) << 8;
  return moved_level(index, e % 8, (high & 0x8000u) != 0);
}

// The block's scale is in the high four bits of each of the four words of scales.
LLAMA_RT_DECODER float codebook_scale(const BlockIQ1_M& b, int octet) {
  const auto d = static_cast<uint32_t>(b.scales[0] >> 12 | (b.scales[1] >> 12) << 4 |
                                       (b.scales[2] >> 12) << 8 | (b.scales[3] >> 12) << 12);
  const int scale = bits_of(b.scales[octet / 8], octet / 2 % 4 * 3, 3);
  return half_to_float(static_cast<uint16_t>(d)) * static_cast<float>(2 * scale + 1);
}
LLAMA_RT_DECODER float codebook_level(const BlockIQ1_M& b, int e) {
  const int octet = e / 8, high = bits_of(b.qh[octet / 2], octet % 2 * 4, 4);
  return moved_level(b.qs[octet] | (high & 7) << 8, e % 8, (high & 8) != 0);
}

// ---- Sixteen levels ----------------------------------------------------------------------------

LLAMA_RT_DECODER float codebook_scale(const BlockIQ4_NL& b, int) { return half_to_float(b.d); }
LLAMA_RT_DECODER float codebook_level(const BlockIQ4_NL& b, int e) {
  return static_cast<float>(kIq4Levels[bits_of(b.qs[e % 16], e / 16 * 4, 4)]);
}

// The scale of group s, from -32 to 31.
LLAMA_RT_DECODER int iq4_xs_scale(const BlockIQ4_XS& b, int s) {
  return (bits_of(b.scales_l[s / 2], s % 2 * 4, 4) | bits_of(b.scales_h, 2 * s, 2) << 4) - 32;
}
LLAMA_RT_DECODER float codebook_scale(const BlockIQ4_XS& b, int octet) {
  return half_to_float(b.d) * static_cast<float>(iq4_xs_scale(b, octet / 4));
}
LLAMA_RT_DECODER float codebook_level(const BlockIQ4_XS& b, int e) {
  return static_cast<float>(kIq4Levels[bits_of(b.qs[e / 32 * 16 + e % 16], e / 16 % 2 * 4, 4)]);
}

// Half of the power of two that an exponent stands for, since levels are doubled.
LLAMA_RT_DECODER float codebook_scale(const BlockMXFP4& b, int) {
  const uint32_t bits = b.e < 2 ? 0x00200000u << b.e : static_cast<uint32_t>(b.e - 1) << 23;
  float scale;
  memcpy(&scale, &bits, sizeof(scale));
  return scale;
}
LLAMA_RT_DECODER float codebook_level(const BlockMXFP4& b, int e) {
  return static_cast<float>(kMxfp4Levels[bits_of(b.qs[e % 16], e / 16 * 4, 4)]);
}

// ---- Ternary -----------------------------------------------------------------------------------

// A byte holds five digits as a fraction of 256: times a power of three, its next digit is on top.
LLAMA_RT_DECODER float ternary_digit(int byte, int digit) {
  const int powers = digit == 0 ? 1 : digit == 1 ? 3 : digit == 2 ? 9 : digit == 3 ? 27 : 81;
  return static_cast<float>((((byte * powers) & 255) * 3 >> 8) - 1);
}
LLAMA_RT_DECODER float codebook_scale(const BlockTQ1_0& b, int) { return half_to_float(b.d); }
LLAMA_RT_DECODER float codebook_level(const BlockTQ1_0& b, int e) {
  if (e < 160) return ternary_digit(b.qs[e % 32], e / 32);
  if (e < 240) return ternary_digit(b.qs[32 + (e - 160) % 16], (e - 160) / 16);
  return ternary_digit(b.qh[(e - 240) % 4], (e - 240) / 4);
}

LLAMA_RT_DECODER float codebook_scale(const BlockTQ2_0& b, int) { return half_to_float(b.d); }
LLAMA_RT_DECODER float codebook_level(const BlockTQ2_0& b, int e) {
  return static_cast<float>(bits_of(b.qs[e / 128 * 32 + e % 32], e / 32 % 4 * 2, 2) - 1);
}

// X(block, elements)
#define LLAMA_RT_CODEBOOK_BLOCKS(X) \
  X(BlockIQ1_S, kSuperBlock)        \
  X(BlockIQ1_M, kSuperBlock)        \
  X(BlockIQ2_XXS, kSuperBlock)      \
  X(BlockIQ2_XS, kSuperBlock)       \
  X(BlockIQ2_S, kSuperBlock)        \
  X(BlockIQ3_XXS, kSuperBlock)      \
  X(BlockIQ3_S, kSuperBlock)        \
  X(BlockIQ4_NL, kBlock)            \
  X(BlockIQ4_XS, kSuperBlock)       \
  X(BlockTQ1_0, kSuperBlock)        \
  X(BlockTQ2_0, kSuperBlock)        \
  X(BlockMXFP4, kBlock)
