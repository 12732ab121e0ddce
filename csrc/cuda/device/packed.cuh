// Packed weights: the layout that products stream. Rows go in panels of 16; a panel is a sequence
// of units of kUnitK columns, which are kPieces pieces of 64. A unit is first the codes of its
// pieces, then what scales them. Lane 4 g + t meets rows g and g + 8 of its panel, so that what it
// loads is, once expanded, its fragment of operand A of mma.m16n8k16 (and of a warp's share of
// wgmma's):
//   a[0] row g, columns 2 t and 2 t + 1 of a tile of 16     a[2] row g, columns 2 t + 8 and the
//   next a[1] row g + 8, the same columns                        a[3] row g + 8, the same
// Pair i of a tile is a[i]. Codes lie so that a pair is one mask away from a register's two halves:
//   floats    a vector of 16 bytes per lane for each tile, word i pair i
//   bytes     a vector for two tiles: pairs 0 and 1 of a tile in bytes (0, 2) and (1, 3) of its
//             first word, 2 and 3 in the second
//   nibbles   a vector for a piece, a word per tile: pair i in nibbles i and i + 4
//   two bits  two words for a piece, each for two tiles: pair i of tile p in fields p * 4 + i and
//             8 more; behind the nibbles of all pieces
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
inline constexpr int kPieceTiles = 4;
inline constexpr int kPieceK = kPieceTiles * kTileK;
inline constexpr int kVectorBytes = 16 * kWarp;  // one vector of all lanes
inline constexpr int kQuads = kWarp / 4;         // lanes that share two rows

using Fragment = uint32_t[4];

// Scale and min of a lane's two rows: y = scale * code - min.
struct RowScales {
  float scale[2];
  float min[2];
};

// kUnitK, bytes of the codes of a piece's vectors and of the whole unit; kGroupTiles: tiles that
// share scales, 0: none.
template <int kColumns, int kPieceVectors, int kBytes, int kTilesOfGroup, bool kMins>
struct PackedShape {
  static constexpr int kUnitK = kColumns;
  static constexpr int kPieces = kColumns / kPieceK;
  static constexpr int kVectors = kPieceVectors;
  static constexpr int kVectorsBytes = kPieces * kPieceVectors * kVectorBytes;
  static constexpr int kUnitBytes = kBytes;
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
__device__ __forceinline__ void load_vectors(uint4 (&v)[kVectors], const std::byte* from,
                                             int lane) {
#pragma unroll
  for (int i = 0; i < kVectors; ++i) v[i] = load_once(from + i * kVectorBytes + lane * 16);
}
// Words of the row pair, or of the lane, with this number.
template <class T>
__device__ __forceinline__ T load_words(const std::byte* from, int number) {
  return __ldg(reinterpret_cast<const T*>(from) + number);
}

// ---- Formats -----------------------------------------------------------------------------------

// Piece: what a lane holds of one. load: starts a lane's loads of piece p of a unit. tile: the
// fragment of its tile t, as numbers of the dtype (floats) or whole numbers in bfloat16. scales: of
// the group that tile t is in.
template <DType>
struct Packed;

struct PackedFloats : PackedShape<64, 4, 4 * kVectorBytes, 0, false> {
  struct Piece {
    uint4 v[kVectors];
  };
  static __device__ __forceinline__ void load(Piece& piece, const std::byte* unit, int, int lane) {
    load_vectors(piece.v, unit, lane);
  }
  static __device__ __forceinline__ void tile(const Piece& piece, int t, Fragment& a) {
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = word_of(piece.v[t], i);
  }
};
template <>
struct Packed<DType::kF16> : PackedFloats {};
template <>
struct Packed<DType::kBF16> : PackedFloats {};

// Blocks of 32 with a half each: of a row pair a word per block, row g low, row g + 8 high.
template <int kPieceVectors>
struct PackedBlocks
    : PackedShape<128, kPieceVectors, 2 * kPieceVectors * kVectorBytes + kQuads * 16, 2, false> {
  using Shape =
      PackedShape<128, kPieceVectors, 2 * kPieceVectors * kVectorBytes + kQuads * 16, 2, false>;
  struct Piece {
    uint4 v[kPieceVectors];
    uint2 d;
  };
  static __device__ __forceinline__ void load(Piece& piece, const std::byte* unit, int p,
                                              int lane) {
    load_vectors(piece.v, unit + p * kPieceVectors * kVectorBytes, lane);
    piece.d = load_words<uint2>(unit + Shape::kVectorsBytes, lane / 4 * 2 + p);
  }
  static __device__ __forceinline__ RowScales scales(const Piece& piece, int, int t) {
    const uint32_t pair = t < 2 ? piece.d.x : piece.d.y;
    return {{half_at(pair, 0), half_at(pair, 1)}, {0.0f, 0.0f}};
  }
};

template <>
struct Packed<DType::kQ8_0> : PackedBlocks<2> {
  // Of a byte the low seven bits are 128 too high as k128 holds them, and a set sign takes 128 off.
  static __device__ __forceinline__ void tile(const Piece& piece, int t, Fragment& a) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t word = word_of(piece.v[t / 2], t % 2 * 2 + i / 2) >> (i % 2 * 8);
      a[i] = fma_bf16x2((word & 0x007f007fu) | k128, kOnes, (word & 0x00800080u) | kMinus128);
    }
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
struct Packed<DType::kQ4_0> : PackedBlocks<1> {
  static __device__ __forceinline__ void tile(const Piece& piece, int t, Fragment& a) {
    nibble_tile(word_of(piece.v[0], t), kMinus136, a);
  }
};

// A row pair's headers (d, dmin, 12 bytes of 6-bit scales and mins) as BlockQ4_K has them; the
// pieces of a unit share them.
template <>
struct Packed<DType::kQ4_K> : PackedShape<256, 1, 4 * kVectorBytes + kQuads * 32, 2, true> {
  struct Piece {
    uint4 v[kVectors];
    uint4 header[2];
  };
  static __device__ __forceinline__ void load(Piece& piece, const std::byte* unit, int p,
                                              int lane) {
    load_vectors(piece.v, unit + p * kVectorBytes, lane);
    piece.header[0] = load_words<uint4>(unit + kVectorsBytes, lane / 4 * 2);
    piece.header[1] = load_words<uint4>(unit + kVectorsBytes, lane / 4 * 2 + 1);
  }
  static __device__ __forceinline__ void tile(const Piece& piece, int t, Fragment& a) {
    nibble_tile(word_of(piece.v[0], t), kMinus128, a);
  }
  static __device__ __forceinline__ RowScales scales(const Piece& piece, int p, int t) {
    const int group = 2 * p + t / 2, byte = group % 4 * 8;
    RowScales r;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint4& h = piece.header[i];
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

// Behind the codes: per row pair and piece the four scales of row g and those of row g + 8, then
// per row pair its two halves d.
template <>
struct Packed<DType::kQ6_K> : PackedShape<256, 1, 6 * kVectorBytes + kQuads * 36, 1, false> {
  static constexpr int kHighBytes = kVectorBytes / 2;  // of a piece
  static constexpr int kScalesAt = kVectorsBytes + kPieces * kHighBytes;
  struct Piece {
    uint4 v[kVectors];
    uint2 high;
    uint2 scale;
    uint32_t d;
  };
  static __device__ __forceinline__ void load(Piece& piece, const std::byte* unit, int p,
                                              int lane) {
    load_vectors(piece.v, unit + p * kVectorBytes, lane);
    piece.high = load_words<uint2>(unit + kVectorsBytes + p * kHighBytes, lane);
    piece.scale = load_words<uint2>(unit + kScalesAt, lane / 4 * kPieces + p);
    piece.d = load_words<uint32_t>(unit + kScalesAt + kQuads * 32, lane / 4);
  }
  static __device__ __forceinline__ void tile(const Piece& piece, int t, Fragment& a) {
    const uint32_t low = word_of(piece.v[0], t), high = t < 2 ? piece.high.x : piece.high.y;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int field = 2 * (t % 2 * 4 + i);  // its bits 0 and 1 belong at 4 and 5
      const uint32_t bits = field < 4 ? high << (4 - field) : high >> (field - 4);
      a[i] = fma_bf16x2(((low >> (4 * i)) & 0x000f000fu) | (bits & 0x00300030u) | k128, kOnes,
                        kMinus160);
    }
  }
  static __device__ __forceinline__ RowScales scales(const Piece& piece, int, int t) {
    RowScales r;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t four = i == 0 ? piece.scale.x : piece.scale.y;
      r.scale[i] = half_at(piece.d, i) * static_cast<float>(static_cast<int8_t>(four >> (8 * t)));
      r.min[i] = 0.0f;
    }
    return r;
  }
};

// Tile t of piece p as products with many inputs take it: floats as they are, else rounded to
// bfloat16.
template <class Format>
__device__ __forceinline__ void expanded_tile(const typename Format::Piece& piece, int p, int t,
                                              Fragment& a) {
  Format::tile(piece, t, a);
  if constexpr (Format::kScaled) {
    const RowScales s = Format::scales(piece, p, t);
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
