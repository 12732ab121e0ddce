// Packed weights: the layout that products stream. Rows go in panels of 16; a panel is a sequence
// of units of kUnitK columns; a unit is first kVectors vectors of 16 bytes for each lane of a warp,
// then its scales. Lane 4 g + t meets rows g and g + 8 of its panel, so that what it loads is, once
// expanded, its fragment of operand A of mma.m16n8k16 (and of a warp's share of wgmma's):
//   a[0] row g, columns 2 t and 2 t + 1 of a tile of 16     a[2] row g, columns 2 t + 8 and the
//   next a[1] row g + 8, the same columns                        a[3] row g + 8, the same
// Pair i of a tile is a[i]. Codes lie so that a pair is one mask away from a register's two halves:
//   floats    word i of a vector is pair i; a vector is a tile
//   bytes     two words per tile: pairs 0 and 1 in bytes (0, 2) and (1, 3) of the first, 2 and 3
//             in the second
//   nibbles   one word per tile: pair i in nibbles i and i + 4
//   two bits  one word per two tiles: pair i of tile p in the fields p * 4 + i and 8 more
// Scales are read by the four lanes of a row pair together. Missing rows and columns are zeros.
#pragma once

#include <cuda_fp16.h>

#include "core/blocks.h"
#include "core/dtype.h"
#include "cuda/device/ptx.cuh"
#include "cuda/device/warp.cuh"

namespace llama_rt::cuda {

inline constexpr int kPanelRows = 16;
inline constexpr int kTileK = 16;
inline constexpr int kVectorBytes = 16 * kWarp;  // one vector of all lanes
inline constexpr int kQuads = kWarp / 4;         // lanes that share two rows

using Fragment = uint32_t[4];

// Scale and min of a lane's two rows: y = scale * code - min.
struct RowScales {
  float scale[2];
  float min[2];
};

// kUnitK, kVectors (of codes), kScaleBytes (of a unit), kGroupTiles (that share scales; 0: none).
template <int kColumns, int kCodeVectors, int kScales, int kTilesOfGroup, bool kMins>
struct PackedShape {
  static constexpr int kUnitK = kColumns;
  static constexpr int kTiles = kColumns / kTileK;
  static constexpr int kVectors = kCodeVectors;
  static constexpr int kCodeBytes = kCodeVectors * kVectorBytes;
  static constexpr int kUnitBytes = kCodeBytes + kScales;
  static constexpr int kGroupTiles = kTilesOfGroup;
  static constexpr bool kScaled = kTilesOfGroup > 0;
  static constexpr bool kHasMin = kMins;
  static int64_t units(int64_t k) { return (k + kColumns - 1) / kColumns; }
  static int64_t panel_bytes(int64_t k) { return units(k) * kUnitBytes; }
};

// Pairs of bfloat16: one, and whole numbers that take the offset of a code off.
inline constexpr uint32_t kOnes = 0x3f803f80u;
inline constexpr uint32_t kMinus128 = 0xc300c300u;
inline constexpr uint32_t kMinus136 = 0xc308c308u;
inline constexpr uint32_t kMinus160 = 0xc320c320u;
// 128 with a whole number below 128 in its low bits is their sum.
inline constexpr uint32_t k128 = 0x43004300u;

__device__ __forceinline__ uint32_t word_of(const uint4& v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

// The half in the low or high 16 bits of a word.
__device__ __forceinline__ float half_at(uint32_t word, int i) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(i ? word >> 16 : word)));
}

template <int kVectors>
__device__ __forceinline__ void load_vectors(uint4 (&v)[kVectors], const std::byte* unit,
                                             int lane) {
#pragma unroll
  for (int i = 0; i < kVectors; ++i) v[i] = load_once(unit + i * kVectorBytes + lane * 16);
}

// ---- Formats -----------------------------------------------------------------------------------

// Unit: what a lane holds. load: starts a lane's loads. tile: a fragment of tile j, as numbers of
// the dtype (floats) or whole numbers in bfloat16. scales: of the group that tile j is in.
template <DType>
struct Packed;

struct PackedFloats : PackedShape<64, 4, 0, 0, false> {
  struct Unit {
    uint4 v[kVectors];
  };
  static __device__ __forceinline__ void load(Unit& u, const std::byte* unit, int lane) {
    load_vectors(u.v, unit, lane);
  }
  static __device__ __forceinline__ void tile(const Unit& u, int j, Fragment& a) {
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = word_of(u.v[j], i);
  }
};
template <>
struct Packed<DType::kF16> : PackedFloats {};
template <>
struct Packed<DType::kBF16> : PackedFloats {};

// Four blocks of 32, each row pair's halves of block b in word b: row g low, row g + 8 high.
struct BlockScales {
  static constexpr int kBytes = kQuads * 16;
  static __device__ __forceinline__ RowScales at(const uint4& halves, int block) {
    const uint32_t pair = word_of(halves, block);
    return {{half_at(pair, 0), half_at(pair, 1)}, {0.0f, 0.0f}};
  }
};

template <>
struct Packed<DType::kQ8_0> : PackedShape<128, 4, BlockScales::kBytes, 2, false> {
  struct Unit {
    uint4 v[kVectors];
    uint4 halves;
  };
  static __device__ __forceinline__ void load(Unit& u, const std::byte* unit, int lane) {
    load_vectors(u.v, unit, lane);
    u.halves = load_once(unit + kCodeBytes + lane / 4 * 16);
  }
  // Of a byte the low seven bits are 128 too high as k128 holds them, and a set sign takes 128 off.
  static __device__ __forceinline__ void tile(const Unit& u, int j, Fragment& a) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t word = word_of(u.v[j / 2], j % 2 * 2 + i / 2) >> (i % 2 * 8);
      a[i] = fma_bf16x2((word & 0x007f007fu) | k128, kOnes, (word & 0x00800080u) | kMinus128);
    }
  }
  static __device__ __forceinline__ RowScales scales(const Unit& u, int j) {
    return BlockScales::at(u.halves, j / 2);
  }
};

// Nibbles as whole numbers, `offset` (a pair of bfloat16) added.
__device__ __forceinline__ void nibble_tile(uint32_t word, uint32_t offset, Fragment& a) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    a[i] = fma_bf16x2(((word >> (4 * i)) & 0x000f000fu) | k128, kOnes, offset);
  }
}

template <>
struct Packed<DType::kQ4_0> : PackedShape<128, 2, BlockScales::kBytes, 2, false> {
  struct Unit {
    uint4 v[kVectors];
    uint4 halves;
  };
  static __device__ __forceinline__ void load(Unit& u, const std::byte* unit, int lane) {
    load_vectors(u.v, unit, lane);
    u.halves = load_once(unit + kCodeBytes + lane / 4 * 16);
  }
  static __device__ __forceinline__ void tile(const Unit& u, int j, Fragment& a) {
    nibble_tile(word_of(u.v[j / 4], j % 4), kMinus136, a);
  }
  static __device__ __forceinline__ RowScales scales(const Unit& u, int j) {
    return BlockScales::at(u.halves, j / 2);
  }
};

// A row pair's headers (d, dmin, 12 bytes of 6-bit scales and mins) as BlockQ4_K has them.
template <>
struct Packed<DType::kQ4_K> : PackedShape<256, 4, kQuads * 32, 2, true> {
  struct Unit {
    uint4 v[kVectors];
    uint4 header[2];
  };
  static __device__ __forceinline__ void load(Unit& u, const std::byte* unit, int lane) {
    load_vectors(u.v, unit, lane);
    const std::byte* headers = unit + kCodeBytes + lane / 4 * 32;
    u.header[0] = load_once(headers);
    u.header[1] = load_once(headers + 16);
  }
  static __device__ __forceinline__ void tile(const Unit& u, int j, Fragment& a) {
    nibble_tile(word_of(u.v[j / 4], j % 4), kMinus128, a);
  }
  static __device__ __forceinline__ RowScales scales(const Unit& u, int j) {
    const int group = j / 2, byte = group % 4 * 8;
    RowScales r;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint4& h = u.header[i];
      uint32_t scales = h.y & 0x3f3f3f3fu, mins = h.z & 0x3f3f3f3fu;  // of groups 0 to 3
      if (group >= 4) {
        scales = (h.w & 0x0f0f0f0fu) | ((h.y >> 2) & 0x30303030u);
        mins = ((h.w >> 4) & 0x0f0f0f0fu) | ((h.z >> 2) & 0x30303030u);
      }
      r.scale[i] = half_at(h.x, 0) * static_cast<float>((scales >> byte) & 255u);
      r.min[i] = half_at(h.x, 1) * static_cast<float>((mins >> byte) & 255u);
    }
    return r;
  }
};

// Per row pair 16 bytes of scales each, then (behind all of those) their two halves d.
template <>
struct Packed<DType::kQ6_K> : PackedShape<256, 6, kQuads * 36, 1, false> {
  static constexpr int kLowVectors = 4;
  struct Unit {
    uint4 v[kVectors];  // nibbles, then two bits
    uint4 scales[2];
    uint32_t d;
  };
  static __device__ __forceinline__ void load(Unit& u, const std::byte* unit, int lane) {
    load_vectors(u.v, unit, lane);
    const std::byte* after = unit + kCodeBytes;
    u.scales[0] = load_once(after + lane / 4 * 32);
    u.scales[1] = load_once(after + lane / 4 * 32 + 16);
    u.d = __ldg(reinterpret_cast<const uint32_t*>(after + kQuads * 32 + lane / 4 * 4));
  }
  static __device__ __forceinline__ void tile(const Unit& u, int j, Fragment& a) {
    const uint32_t low = word_of(u.v[j / 4], j % 4);
    const uint32_t high = word_of(u.v[kLowVectors + j / 8], j / 2 % 4);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int field = 2 * (j % 2 * 4 + i);  // its bits 0 and 1 belong at 4 and 5
      const uint32_t bits = field < 4 ? high << (4 - field) : high >> (field - 4);
      a[i] = fma_bf16x2(((low >> (4 * i)) & 0x000f000fu) | (bits & 0x00300030u) | k128, kOnes,
                        kMinus160);
    }
  }
  static __device__ __forceinline__ RowScales scales(const Unit& u, int j) {
    RowScales r;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t four = word_of(u.scales[i], j / 4);
      r.scale[i] = half_at(u.d, i) * static_cast<float>(static_cast<int8_t>(four >> (j % 4 * 8)));
      r.min[i] = 0.0f;
    }
    return r;
  }
};

// Tile j as products with many columns take it: in the dtype of floats, else rounded to bfloat16.
template <class Format>
__device__ __forceinline__ void expanded_tile(const typename Format::Unit& u, int j, Fragment& a) {
  Format::tile(u, j, a);
  if constexpr (Format::kScaled) {
    const RowScales s = Format::scales(u, j);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float low = __uint_as_float(a[i] << 16), high = __uint_as_float(a[i] & 0xffff0000u);
      const float scale = s.scale[i % 2], min = s.min[i % 2];
      a[i] = pack_bf16(scale * low - min, scale * high - min);
    }
  }
}

// d += a b in the type that a dtype's fragments have.
template <DType kType>
__device__ __forceinline__ void multiply_tile(float (&d)[4], const Fragment& a, uint32_t b0,
                                              uint32_t b1) {
  if constexpr (kType == DType::kF16) {
    mma_f16(d, a, b0, b1);
  } else {
    mma_bf16(d, a, b0, b1);
  }
}

// Inputs are bfloat16; beside F16 weights they are the sum of two halves (22 bits), scaled by a
// power of two per row so that neither part leaves the range.
template <DType kType>
inline constexpr int kInputParts = kType == DType::kF16 ? 2 : 1;

}  // namespace llama_rt::cuda
