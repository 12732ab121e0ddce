// Packed weights: the layout that matmul kernels stream. Rows go in panels of 16; a panel is a
// sequence of units of kUnitK columns, which are kPieces pieces of 64. A unit is first the codes of
// its pieces, then what scales them. Lane 4 g + t meets rows g and g + 8 of its panel, so that what
// it loads is, once expanded, its fragment of operand A of mma.m16n8k16 (and of a warp's share of
// wgmma's):
//   a[0] row g, columns 2 t and 2 t + 1 of a tile of 16     a[2] row g, columns 2 t + 8 and the
//   next a[1] row g + 8, the same columns                        a[3] row g + 8, the same
// Pair i of a tile is a[i]. Codes lie so that a pair is one mask away from a register's two halves:
//   floats    a vector of 16 bytes per lane for each tile, word i pair i
//   bytes     a vector for two tiles: pairs 0 and 1 of a tile in bytes (0, 2) and (1, 3) of its
//             first word, 2 and 3 in the second
//   nibbles   a vector for a piece, a word per tile: pair i in nibbles i and i + 4
//   two bits  two words for a piece, each for two tiles: pair i of tile p in fields p * 4 + i and
//             8 more; behind the vectors of all pieces
//   one bit   a word for a piece: pair i of tile t in bits 4 t + i and 16 more; behind those
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

// Where the parts of a unit lie. kTwo, kOne: whether codes have bits of those kinds; kGroupTiles:
// tiles that share scales, 0: none.
template <int kColumns, int kPieceVectors, bool kTwo, bool kOne, int kScaleBytes, int kTilesOfGroup,
          bool kMins>
struct PackedShape {
  static constexpr int kUnitK = kColumns;
  static constexpr int kPieces = kColumns / kPieceK;
  static constexpr int kVectors = kPieceVectors;
  static constexpr bool kHasTwo = kTwo, kHasOne = kOne, kHasMin = kMins;
  static constexpr int kTwoAt = kPieces * kPieceVectors * kVectorBytes;
  static constexpr int kOneAt = kTwoAt + (kTwo ? kPieces * 8 * kWarp : 0);
  static constexpr int kScalesAt = kOneAt + (kOne ? kPieces * 4 * kWarp : 0);
  static constexpr int kUnitBytes = kScalesAt + kScaleBytes;
  static constexpr int kGroupTiles = kTilesOfGroup;
  static constexpr bool kScaled = kTilesOfGroup > 0;
  static int64_t units(int64_t k) { return (k + kColumns - 1) / kColumns; }
  static int64_t panel_bytes(int64_t k) { return units(k) * kUnitBytes; }
  static_assert(kUnitBytes % 16 == 0);
};

// Pairs of bfloat16: one, and whole numbers that take the offset of a code off.
inline constexpr uint32_t kOnes = 0x3f803f80u;
inline constexpr uint32_t kMinus128 = 0xc300c300u;
inline constexpr uint32_t kMinus132 = 0xc304c304u;
inline constexpr uint32_t kMinus136 = 0xc308c308u;
inline constexpr uint32_t kMinus144 = 0xc310c310u;
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

// What a lane has of a piece's codes; members that a format lacks are never touched.
template <class Shape>
struct Codes {
  uint4 v[Shape::kVectors > 0 ? Shape::kVectors : 1];
  uint2 two;
  uint32_t one;

  __device__ __forceinline__ void load(const std::byte* unit, int p, int lane) {
    if constexpr (Shape::kVectors > 0) {
      load_vectors(v, unit + p * Shape::kVectors * kVectorBytes, lane);
    }
    if constexpr (Shape::kHasTwo) {
      two = load_words<uint2>(unit + Shape::kTwoAt + p * 8 * kWarp, lane);
    }
    if constexpr (Shape::kHasOne) {
      one = load_words<uint32_t>(unit + Shape::kOneAt + p * 4 * kWarp, lane);
    }
  }
  // Pair i of tile t: four bits from bit 0, or the two bits or the one brought to bit `to`.
  __device__ __forceinline__ uint32_t nibbles(int t, int i) const {
    return (word_of(v[0], t) >> (4 * i)) & 0x000f000fu;
  }
  __device__ __forceinline__ uint32_t twos(int t, int i, int to) const {
    const int from = 2 * (t % 2 * 4 + i);
    return moved(t < 2 ? two.x : two.y, from, to) & 0x00030003u << to;
  }
  __device__ __forceinline__ uint32_t ones(int t, int i, int to) const {
    return moved(one, 4 * t + i, to) & 0x00010001u << to;
  }

 private:
  static __device__ __forceinline__ uint32_t moved(uint32_t word, int from, int to) {
    return from < to ? word << (to - from) : word >> (from - to);
  }
};

// A pair of whole numbers below 128 in bfloat16, `offset` (a pair, 128 too low) added.
__device__ __forceinline__ uint32_t whole(uint32_t pair, uint32_t offset) {
  return fma_bf16x2(pair | k128, kOnes, offset);
}

// ---- Formats -----------------------------------------------------------------------------------

// Piece: what a lane holds of one. load: starts a lane's loads of piece p of a unit. tile: the
// fragment of its tile t, as numbers of the dtype (floats) or whole numbers in bfloat16. scales: of
// the group that tile t is in.
template <DType>
struct Packed;

struct PackedFloats : PackedShape<64, 4, false, false, 0, 0, false> {
  using Piece = Codes<PackedFloats>;
  static __device__ __forceinline__ void load(Piece& piece, const std::byte* unit, int p,
                                              int lane) {
    piece.load(unit, p, lane);
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

// Blocks of 32 with a half each: of a row pair a word per block, row g low, row g + 8 high. With
// mins their halves (which are added) follow in the same order.
template <int kPieceVectors, bool kOne, bool kMins>
struct PackedBlocks
    : PackedShape<128, kPieceVectors, false, kOne, kQuads*(kMins ? 32 : 16), 2, kMins> {
  struct Piece {
    Codes<PackedBlocks> codes;
    uint2 d, m;
  };
  static __device__ __forceinline__ void load(Piece& piece, const std::byte* unit, int p,
                                              int lane) {
    piece.codes.load(unit, p, lane);
    piece.d = load_words<uint2>(unit + PackedBlocks::kScalesAt, lane / 4 * 2 + p);
    if constexpr (kMins) {
      piece.m = load_words<uint2>(unit + PackedBlocks::kScalesAt + kQuads * 16, lane / 4 * 2 + p);
    }
  }
  static __device__ __forceinline__ RowScales scales(const Piece& piece, int, int t) {
    const uint32_t d = t < 2 ? piece.d.x : piece.d.y;
    RowScales r{{half_at(d, 0), half_at(d, 1)}, {0.0f, 0.0f}};
    if constexpr (kMins) {
      const uint32_t m = t < 2 ? piece.m.x : piece.m.y;
      r.min[0] = -half_at(m, 0), r.min[1] = -half_at(m, 1);
    }
    return r;
  }
};

template <>
struct Packed<DType::kQ8_0> : PackedBlocks<2, false, false> {
  // Of a byte the low seven bits are 128 too high as k128 holds them, and a set sign takes 128 off.
  static __device__ __forceinline__ void tile(const Piece& piece, int t, Fragment& a) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t word = word_of(piece.codes.v[t / 2], t % 2 * 2 + i / 2) >> (i % 2 * 8);
      a[i] = fma_bf16x2((word & 0x007f007fu) | k128, kOnes, (word & 0x00800080u) | kMinus128);
    }
  }
};

// Nibbles, and nibbles with a fifth bit.
template <class Shape, uint32_t kOffset>
struct PackedNibbles : Shape {
  template <class Piece>
  static __device__ __forceinline__ void tile(const Piece& piece, int t, Fragment& a) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      uint32_t pair = piece.codes.nibbles(t, i);
      if constexpr (Shape::kHasOne) pair |= piece.codes.ones(t, i, 4);
      a[i] = whole(pair, kOffset);
    }
  }
};
template <>
struct Packed<DType::kQ4_0> : PackedNibbles<PackedBlocks<1, false, false>, kMinus136> {};
template <>
struct Packed<DType::kQ4_1> : PackedNibbles<PackedBlocks<1, false, true>, kMinus128> {};
template <>
struct Packed<DType::kQ5_0> : PackedNibbles<PackedBlocks<1, true, false>, kMinus144> {};
template <>
struct Packed<DType::kQ5_1> : PackedNibbles<PackedBlocks<1, true, true>, kMinus128> {};

// A row pair's headers (d, dmin, 12 bytes of 6-bit scales and mins) as BlockQ4_K has them; the
// pieces of a unit share them.
template <bool kOne>
struct PackedHeaders : PackedShape<256, 1, false, kOne, kQuads * 32, 2, true> {
  struct Piece {
    Codes<PackedHeaders> codes;
    uint4 header[2];
  };
  static __device__ __forceinline__ void load(Piece& piece, const std::byte* unit, int p,
                                              int lane) {
    piece.codes.load(unit, p, lane);
    piece.header[0] = load_words<uint4>(unit + PackedHeaders::kScalesAt, lane / 4 * 2);
    piece.header[1] = load_words<uint4>(unit + PackedHeaders::kScalesAt, lane / 4 * 2 + 1);
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
template <>
struct Packed<DType::kQ4_K> : PackedNibbles<PackedHeaders<false>, kMinus128> {};
template <>
struct Packed<DType::kQ5_K> : PackedNibbles<PackedHeaders<true>, kMinus128> {};

// Groups of 16 with a byte each: per row pair and piece the four of row g and those of row g + 8,
// then per row pair its two halves d and, with mins, its two halves dmin. A byte is a signed scale
// or, with mins, a scale in the low nibble and a min in the high one.
template <int kPieceVectors, bool kOne, bool kMins>
struct PackedSixteens
    : PackedShape<256, kPieceVectors, true, kOne, kQuads*(kMins ? 40 : 36), 1, kMins> {
  struct Piece {
    Codes<PackedSixteens> codes;
    uint2 scale;
    uint32_t d, dmin;
  };
  static __device__ __forceinline__ void load(Piece& piece, const std::byte* unit, int p,
                                              int lane) {
    constexpr int kHalvesAt = PackedSixteens::kScalesAt + kQuads * 32;
    piece.codes.load(unit, p, lane);
    piece.scale =
        load_words<uint2>(unit + PackedSixteens::kScalesAt, lane / 4 * PackedSixteens::kPieces + p);
    piece.d = load_words<uint32_t>(unit + kHalvesAt, lane / 4);
    if constexpr (kMins) piece.dmin = load_words<uint32_t>(unit + kHalvesAt + kQuads * 4, lane / 4);
  }
  static __device__ __forceinline__ RowScales scales(const Piece& piece, int, int t) {
    RowScales r;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t byte = (i == 0 ? piece.scale.x : piece.scale.y) >> (8 * t) & 255u;
      if constexpr (kMins) {
        r.scale[i] = half_at(piece.d, i) * static_cast<float>(byte & 15u);
        r.min[i] = half_at(piece.dmin, i) * static_cast<float>(byte >> 4);
      } else {
        r.scale[i] = half_at(piece.d, i) * static_cast<float>(static_cast<int8_t>(byte));
        r.min[i] = 0.0f;
      }
    }
    return r;
  }
};
template <>
struct Packed<DType::kQ2_K> : PackedSixteens<0, false, true> {
  static __device__ __forceinline__ void tile(const Piece& piece, int t, Fragment& a) {
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = whole(piece.codes.twos(t, i, 0), kMinus128);
  }
};
template <>
struct Packed<DType::kQ3_K> : PackedSixteens<0, true, false> {
  static __device__ __forceinline__ void tile(const Piece& piece, int t, Fragment& a) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      a[i] = whole(piece.codes.twos(t, i, 0) | piece.codes.ones(t, i, 2), kMinus132);
    }
  }
};
template <>
struct Packed<DType::kQ6_K> : PackedSixteens<1, false, false> {
  static __device__ __forceinline__ void tile(const Piece& piece, int t, Fragment& a) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      a[i] = whole(piece.codes.nibbles(t, i) | piece.codes.twos(t, i, 4), kMinus160);
    }
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
