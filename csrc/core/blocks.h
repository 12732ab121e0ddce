// Storage structs of quantized blocks, byte for byte as GGUF files hold them (llama.cpp's
// ggml-common.h). Half-precision scales are kept as their 16 bits. Shared by host and device.
#pragma once

#include <cstdint>
#include <cstring>

namespace llama_rt {

inline constexpr int kBlock = 32;        // elements of a legacy block
inline constexpr int kSuperBlock = 256;  // elements of a K block

struct BlockF32 {
  float value;
};
struct BlockF16 {
  uint16_t bits;
};
struct BlockBF16 {
  uint16_t bits;
};

// y = d * (q - 8); the low nibble of byte j is element j, the high nibble element j + 16.
struct BlockQ4_0 {
  uint16_t d;
  uint8_t qs[16];
};
static_assert(sizeof(BlockQ4_0) == 18);

// y = d * q + m
struct BlockQ4_1 {
  uint16_t d;
  uint16_t m;
  uint8_t qs[16];
};
static_assert(sizeof(BlockQ4_1) == 20);

// y = d * (q - 16); bit e of qh is the fifth bit of element e.
struct BlockQ5_0 {
  uint16_t d;
  uint8_t qh[4];
  uint8_t qs[16];
};
static_assert(sizeof(BlockQ5_0) == 22);

// y = d * q + m
struct BlockQ5_1 {
  uint16_t d;
  uint16_t m;
  uint8_t qh[4];
  uint8_t qs[16];
};
static_assert(sizeof(BlockQ5_1) == 24);

// y = d * q
struct BlockQ8_0 {
  uint16_t d;
  int8_t qs[32];
};
static_assert(sizeof(BlockQ8_0) == 34);

// 16 groups of 16: y = d * (scale & 15) * q - dmin * (scale >> 4), q of 2 bits.
struct BlockQ2_K {
  uint8_t scales[16];
  uint8_t qs[64];
  uint16_t d;
  uint16_t dmin;
};
static_assert(sizeof(BlockQ2_K) == 84);

// 16 groups of 16: y = d * (scale - 32) * q, q of 3 bits (high bits in hmask), 6-bit scales.
struct BlockQ3_K {
  uint8_t hmask[32];
  uint8_t qs[64];
  uint8_t scales[12];
  uint16_t d;
};
static_assert(sizeof(BlockQ3_K) == 110);

// 8 groups of 32: y = d * scale * q - dmin * min, q of 4 bits, 6-bit scales and mins.
struct BlockQ4_K {
  uint16_t d;
  uint16_t dmin;
  uint8_t scales[12];
  uint8_t qs[128];
};
static_assert(sizeof(BlockQ4_K) == 144);

// As Q4_K with a fifth bit in qh.
struct BlockQ5_K {
  uint16_t d;
  uint16_t dmin;
  uint8_t scales[12];
  uint8_t qh[32];
  uint8_t qs[128];
};
static_assert(sizeof(BlockQ5_K) == 176);

// 16 groups of 16: y = d * scale * (q - 32), q of 6 bits (4 in ql, 2 in qh), 8-bit scales.
struct BlockQ6_K {
  uint8_t ql[128];
  uint8_t qh[64];
  int8_t scales[16];
  uint16_t d;
};
static_assert(sizeof(BlockQ6_K) == 210);

// What products round activations to: as Q8_0 with s = d * sum of q, and a block of 256 with the
// sums of each 16. Files have them rarely.
struct BlockQ8_1 {
  uint16_t d;
  uint16_t s;
  int8_t qs[32];
};
static_assert(sizeof(BlockQ8_1) == 36);
struct BlockQ8_K {
  float d;
  int8_t qs[256];
  int16_t sums[16];
};
static_assert(sizeof(BlockQ8_K) == 292);

// Codes that stand for entries of a table; codebook_blocks.inl has the formulas.
// A group of 32: four 8-bit indices, then four times seven signs and a scale of four bits.
struct BlockIQ2_XXS {
  uint16_t d;
  uint16_t qs[32];
};
static_assert(sizeof(BlockIQ2_XXS) == 66);
// An index of 9 bits and seven signs; scales of 16.
struct BlockIQ2_XS {
  uint16_t d;
  uint16_t qs[32];
  uint8_t scales[8];
};
static_assert(sizeof(BlockIQ2_XS) == 74);
// Indices of 10 bits, the high two in qh; scales of 16.
struct BlockIQ2_S {
  uint16_t d;
  uint8_t qs[32];
  uint8_t signs[32];
  uint8_t qh[8];
  uint8_t scales[8];
};
static_assert(sizeof(BlockIQ2_S) == 82);
// An index for four; a group of 32 has four times seven signs and a scale of four bits.
struct BlockIQ3_XXS {
  uint16_t d;
  uint8_t qs[64];
  uint8_t signs[32];
};
static_assert(sizeof(BlockIQ3_XXS) == 98);
// Indices of 9 bits for four, the high one in qh; scales of 32.
struct BlockIQ3_S {
  uint16_t d;
  uint8_t qs[64];
  uint8_t qh[8];
  uint8_t signs[32];
  uint8_t scales[4];
};
static_assert(sizeof(BlockIQ3_S) == 110);
// Indices of 11 bits; qh has their high bits, and a group's scale and the sign of its eighth.
struct BlockIQ1_S {
  uint16_t d;
  uint8_t qs[32];
  uint16_t qh[8];
};
static_assert(sizeof(BlockIQ1_S) == 50);
// The same with scales of 16; d is spread over the words of scales.
struct BlockIQ1_M {
  uint8_t qs[32];
  uint8_t qh[16];
  uint16_t scales[4];
};
static_assert(sizeof(BlockIQ1_M) == 56);
// y = d * level[q]; nibbles as in Q4_0.
struct BlockIQ4_NL {
  uint16_t d;
  uint8_t qs[16];
};
static_assert(sizeof(BlockIQ4_NL) == 18);
// 8 groups of 32: y = d * (scale - 32) * level[q], 6-bit scales; nibbles of a group as in Q4_0.
struct BlockIQ4_XS {
  uint16_t d;
  uint16_t scales_h;
  uint8_t scales_l[4];
  uint8_t qs[128];
};
static_assert(sizeof(BlockIQ4_XS) == 136);
// y = d * q with q of -1, 0, 1: five to a byte, or four.
struct BlockTQ1_0 {
  uint8_t qs[48];
  uint8_t qh[4];
  uint16_t d;
};
static_assert(sizeof(BlockTQ1_0) == 54);
struct BlockTQ2_0 {
  uint8_t qs[64];
  uint16_t d;
};
static_assert(sizeof(BlockTQ2_0) == 66);
// Floats of four bits under a power of two (OCP Microscaling).
struct BlockMXFP4 {
  uint8_t e;
  uint8_t qs[16];
};
static_assert(sizeof(BlockMXFP4) == 17);

// Block `index` of a row, which may begin at any byte of a file.
template <class Block>
inline Block block_at(const void* row, int64_t index) {
  Block block;
  std::memcpy(&block, static_cast<const char*>(row) + index * int64_t{sizeof(Block)},
              sizeof(Block));
  return block;
}

}  // namespace llama_rt
