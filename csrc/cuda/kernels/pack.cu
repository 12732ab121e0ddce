// Weights into their packed layout (device/packed.cuh), on the device, panel by panel. A warp makes
// one unit of one panel; each lane gathers the codes of the fragments it will be given.
#include "cuda/device/blocks.cuh"
#include "cuda/kernels/epilogue.cuh"

namespace llama_rt::cuda {
namespace {

// Rows of one panel, in the stored form; rows from `count` on are zeros.
template <DType kType>
struct PanelRows {
  using Block = typename Stored<kType>::Block;
  static constexpr int kElements = Stored<kType>::kElements;
  const std::byte* rows;
  int64_t row_bytes;
  int count;
  int64_t cols;

  __device__ bool has(int row, int64_t k) const { return row < count && k < cols; }
  __device__ const Block& block(int row, int64_t k) const {
    return reinterpret_cast<const Block*>(rows + row * row_bytes)[k / kElements];
  }
  // Element i of pair p of tile `tile` for this lane, as its stored code plus `offset`.
  __device__ uint32_t code_at(int64_t tile, int p, int i, int offset) const {
    const int row = lane_index() / 4 + p % 2 * 8;
    const int64_t k = tile * kTileK + p / 2 * 8 + lane_index() % 4 * 2 + i;
    if (!has(row, k)) return 0;
    if constexpr (kElements == 1) {
      return block(row, k).bits;
    } else {
      return static_cast<uint32_t>(code(block(row, k), static_cast<int>(k % kElements)) + offset);
    }
  }
};

// The bytes of the groups of 16 from `g` on, four of them, as one word.
__device__ uint32_t group_bytes(const BlockQ6_K& b, int g) {
  uint32_t word;
  memcpy(&word, b.scales + g, sizeof(word));
  return word;
}
__device__ uint32_t group_bytes(const BlockQ2_K& b, int g) {
  uint32_t word;
  memcpy(&word, b.scales + g, sizeof(word));
  return word;
}
__device__ uint32_t group_bytes(const BlockQ3_K& b, int g) {
  uint32_t word = 0;
  for (int i = 0; i < 4; ++i) {
    word |= (static_cast<uint32_t>(signed_scale(b, g + i)) & 255u) << (8 * i);
  }
  return word;
}

template <DType kType>
inline constexpr bool kSixteens =
    kType == DType::kQ2_K || kType == DType::kQ3_K || kType == DType::kQ6_K;

// What is beside the codes: word w of a unit's scales, whose first column is k.
template <DType kType>
__device__ uint32_t scale_word(const PanelRows<kType>& panel, int w, int64_t k) {
  const auto pair = [&](int row, int64_t column, auto half) -> uint32_t {
    const uint32_t low = panel.has(row, column) ? half(panel.block(row, column)) : 0;
    const uint32_t high = panel.has(row + 8, column) ? half(panel.block(row + 8, column)) : 0;
    return low | high << 16;
  };
  if constexpr (kType == DType::kF16 || kType == DType::kBF16) {
    return 0;
  } else if constexpr (kType == DType::kQ4_K || kType == DType::kQ5_K) {
    const int row = w / 8 + w % 8 / 4 * 8;
    if (!panel.has(row, k)) return 0;
    uint32_t header[4];  // what of the block precedes its codes
    memcpy(header, &panel.block(row, k), sizeof(header));
    return header[w % 4];
  } else if constexpr (kSixteens<kType>) {
    if (w < 8 * kQuads) {
      const int row = w / 8 + w % 2 * 8;
      return panel.has(row, k) ? group_bytes(panel.block(row, k), w % 8 / 2 * 4) : 0;
    }
    const int row = w % kQuads;
    if constexpr (kType == DType::kQ2_K) {
      if (w >= 9 * kQuads) return pair(row, k, [](const auto& b) { return b.dmin; });
    }
    return pair(row, k, [](const auto& b) { return b.d; });
  } else {
    const int row = w / 4 % kQuads;
    const int64_t column = k + w % 4 * kBlock;
    if constexpr (Packed<kType>::kHasMin) {
      if (w >= 4 * kQuads) return pair(row, column, [](const auto& b) { return b.m; });
    }
    return pair(row, column, [](const auto& b) { return b.d; });
  }
}

// What is added to a code so that it is not negative.
template <DType kType>
inline constexpr int kCodeOffset = kType == DType::kQ4_0   ? 8
                                   : kType == DType::kQ5_0 ? 16
                                   : kType == DType::kQ3_K ? 4
                                   : kType == DType::kQ6_K ? 32
                                                           : 0;

// Word i of vector v of this lane, in a unit that begins at `tile`.
template <DType kType>
__device__ uint32_t code_word(const PanelRows<kType>& panel, int v, int i, int64_t tile) {
  uint32_t word = 0;
  if constexpr (kType == DType::kF16 || kType == DType::kBF16) {
    word = panel.code_at(tile + v, i, 0, 0) | panel.code_at(tile + v, i, 1, 0) << 16;
  } else if constexpr (kType == DType::kQ8_0) {
    for (int b = 0; b < 4; ++b) {
      const int pair = i % 2 * 2 + b % 2;
      word |= (panel.code_at(tile + 2 * v + i / 2, pair, b / 2, 0) & 255u) << (8 * b);
    }
  } else {
    for (int f = 0; f < 8; ++f) {
      word |= (panel.code_at(tile + 4 * v + i, f % 4, f / 4, kCodeOffset<kType>) & 15u) << (4 * f);
    }
  }
  return word;
}

// kBits of each code: those above its nibble, or of codes without one the lowest two or, of three,
// the highest. Word i has 32 / kBits codes, four of each half of a tile.
template <DType kType, int kBits>
__device__ uint32_t bits_word(const PanelRows<kType>& panel, int i, int64_t tile) {
  constexpr int kFirst = Packed<kType>::kVectors > 0 ? 4 : kBits == 1 ? 2 : 0;
  constexpr int kCodes = 32 / kBits, kHalf = kCodes / 2;
  uint32_t word = 0;
  for (int f = 0; f < kCodes; ++f) {
    const uint32_t code =
        panel.code_at(tile + kCodes / 8 * i + f % kHalf / 4, f % 4, f / kHalf, kCodeOffset<kType>);
    word |= (code >> kFirst & ((1u << kBits) - 1)) << (kBits * f);
  }
  return word;
}

template <DType kType>
__global__ void pack_kernel(PackTask task) {
  using Format = Packed<kType>;
  wait_for_previous();
  const int64_t units = (task.cols + Format::kUnitK - 1) / Format::kUnitK;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kWarp) + warp_index();
  const int64_t panel_index = item / units, unit = item % units;
  const int64_t row = panel_index * kPanelRows;  // from first_row
  if (row >= (task.count + kPackRows - 1) / kPackRows * kPackRows) return;
  const int64_t left = task.count - row;
  const PanelRows<kType> panel{task.rows_data + row * task.row_bytes, task.row_bytes,
                               static_cast<int>(left < 0    ? 0
                                                : left < 16 ? left
                                                            : 16),
                               task.cols};
  const int64_t panel_bytes = units * Format::kUnitBytes;
  std::byte* out = task.packed + (task.first_row / kPanelRows + panel_index) * panel_bytes +
                   unit * Format::kUnitBytes;
  const int64_t tile = unit * Format::kPieces * kPieceTiles;
  for (int v = 0; v < Format::kPieces * Format::kVectors; ++v) {
    uint4 vector;
    vector.x = code_word(panel, v, 0, tile);
    vector.y = code_word(panel, v, 1, tile);
    vector.z = code_word(panel, v, 2, tile);
    vector.w = code_word(panel, v, 3, tile);
    reinterpret_cast<uint4*>(out + v * kVectorBytes)[lane_index()] = vector;
  }
  for (int p = 0; p < Format::kPieces; ++p) {
    if constexpr (Format::kHasTwo) {
      reinterpret_cast<uint2*>(out + Format::kTwoAt)[p * kWarp + lane_index()] = make_uint2(
          bits_word<kType, 2>(panel, 2 * p, tile), bits_word<kType, 2>(panel, 2 * p + 1, tile));
    }
    if constexpr (Format::kHasOne) {
      reinterpret_cast<uint32_t*>(out + Format::kOneAt)[p * kWarp + lane_index()] =
          bits_word<kType, 1>(panel, p, tile);
    }
  }
  auto* words = reinterpret_cast<uint32_t*>(out + Format::kScalesAt);
  for (int w = lane_index(); w < (Format::kUnitBytes - Format::kScalesAt) / 4; w += kWarp) {
    words[w] = scale_word(panel, w, unit * Format::kUnitK);
  }
}

}  // namespace

template <DType kType>
void pack(const PackTask& task, cudaStream_t stream) {
  constexpr int kWarps = 8;
  const int64_t panels = (task.count + kPackRows - 1) / kPackRows * kPackRows / kPanelRows;
  const int64_t items = panels * Packed<kType>::units(task.cols);
  if (items == 0) return;
  Launch how;
  how.stream = stream;
  how.grid = dim3(blocks_for(items, kWarps));
  how.block = dim3(kWarps * kWarp);
  launch(how, pack_kernel<kType>, task);
}

#define LLAMA_RT_INSTANCE(id) template void pack<DType::k##id>(const PackTask&, cudaStream_t);
LLAMA_RT_PACKED_DTYPES(LLAMA_RT_INSTANCE)
#undef LLAMA_RT_INSTANCE

}  // namespace llama_rt::cuda
