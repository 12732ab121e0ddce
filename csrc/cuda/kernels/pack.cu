// Weights into their packed layout (device/packed.cuh), on the device, panel by panel. A warp makes
// one unit of one panel; each lane gathers the codes of the fragments it will be given.
#include "cuda/device/blocks.cuh"
#include "cuda/kernels/product.cuh"

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

// What is beside the codes: word w of a unit's scales, whose first column is k.
template <DType kType>
__device__ uint32_t scale_word(const PanelRows<kType>& panel, int w, int64_t k) {
  const auto d_of = [&](int row, int64_t column) -> uint32_t {
    if constexpr (PanelRows<kType>::kElements == 1)
      return 0;
    else
      return panel.has(row, column) ? panel.block(row, column).d : 0;
  };
  if constexpr (kType == DType::kQ8_0 || kType == DType::kQ4_0) {
    const int row = w / 4;
    const int64_t column = k + w % 4 * kBlock;
    return d_of(row, column) | d_of(row + 8, column) << 16;
  } else if constexpr (kType == DType::kQ4_K) {
    const int row = w / 8 + w % 8 / 4 * 8;
    if (!panel.has(row, k)) return 0;
    uint32_t header[4];  // what of the block precedes its codes
    memcpy(header, &panel.block(row, k), sizeof(header));
    return header[w % 4];
  } else if constexpr (kType == DType::kQ6_K) {
    if (w >= 8 * kQuads) {
      const int row = w - 8 * kQuads;
      return d_of(row, k) | d_of(row + 8, k) << 16;
    }
    const int row = w / 8 + w % 2 * 8;
    if (!panel.has(row, k)) return 0;
    uint32_t word;
    memcpy(&word, panel.block(row, k).scales + w % 8 / 2 * 4, sizeof(word));
    return word;
  } else {
    return 0;
  }
}

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
    const int offset = kType == DType::kQ4_0 ? 8 : kType == DType::kQ6_K ? 32 : 0;
    for (int f = 0; f < 8; ++f) {
      word |= (panel.code_at(tile + 4 * v + i, f % 4, f / 4, offset) & 15u) << (4 * f);
    }
  }
  return word;
}

// Word i of this lane's high bits of two tiles each, Q6_K only.
template <DType kType>
__device__ uint32_t high_word(const PanelRows<kType>& panel, int i, int64_t tile) {
  uint32_t word = 0;
  for (int f = 0; f < 16; ++f) {
    word |= (panel.code_at(tile + 2 * i + f % 8 / 4, f % 4, f / 8, 32) >> 4 & 3u) << (2 * f);
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
  int scales_at = Format::kVectorsBytes;
  if constexpr (kType == DType::kQ6_K) {
    scales_at = Format::kScalesAt;
    for (int p = 0; p < Format::kPieces; ++p) {
      auto* high = reinterpret_cast<uint2*>(out + Format::kVectorsBytes + p * Format::kHighBytes);
      high[lane_index()] =
          make_uint2(high_word(panel, 2 * p, tile), high_word(panel, 2 * p + 1, tile));
    }
  }
  auto* words = reinterpret_cast<uint32_t*>(out + scales_at);
  for (int w = lane_index(); w < (Format::kUnitBytes - scales_at) / 4; w += kWarp) {
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
