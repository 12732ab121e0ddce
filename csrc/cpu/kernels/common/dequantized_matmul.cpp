// Dequantize-and-multiply fallback: a few rows are decoded to float32 and multiplied with
// every input. From the dtype table alone this is there for every format on every ISA level.
#include "cpu/kernel_table.h"
#include "cpu/kernels/common/math.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {
namespace {

using Decode = void (*)(const std::byte* row, int64_t k, float* out) noexcept;

// kRows decoded rows (padded with zeros to whole vectors) times kTokens inputs. Each product has
// one accumulator and runs over k in order, so its bits do not depend on the tile it was part of.
template <int kRows, int kTokens>
inline void multiply_tile(const DequantizedMatmulTask& t, const float* rows, int64_t row_stride,
                          int64_t first_token, float (&sums)[kRows][kTokens]) {
  F32x16 acc[kRows][kTokens];
  for (auto& row : acc) {
    for (F32x16& a : row) a = zero();
  }
  const float* x = t.x + first_token * t.x_stride;
  const int64_t whole = t.k / 16 * 16;
  for (int64_t k = 0; k < whole; k += 16) {
    F32x16 in[kTokens];
    for (int j = 0; j < kTokens; ++j) in[j] = load(x + j * t.x_stride + k);
    for (int r = 0; r < kRows; ++r) {
      const F32x16 w = load(rows + r * row_stride + k);
      for (int j = 0; j < kTokens; ++j) acc[r][j] = fma(w, in[j], acc[r][j]);
    }
  }
  if (whole < t.k) {
    for (int j = 0; j < kTokens; ++j) {
      const F32x16 in = load_partial(x + j * t.x_stride + whole, t.k - whole);
      for (int r = 0; r < kRows; ++r) {
        acc[r][j] = fma(load(rows + r * row_stride + whole), in, acc[r][j]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int j = 0; j < kTokens; ++j) sums[r][j] = reduce_add(acc[r][j]);
  }
}

template <int kTokens>
inline void multiply_rows(const DequantizedMatmulTask& t, const float* rows, int64_t row_stride,
                          int64_t first_row, int64_t count, int64_t first_token) {
  float sums[kDequantizedRows][kTokens];
  multiply_tile<kDequantizedRows, kTokens>(t, rows, row_stride, first_token, sums);
  for (int64_t r = 0; r < count; ++r) {
    const float bias = t.bias ? t.bias[first_row + r] : 0.0f;
    for (int j = 0; j < kTokens; ++j) {
      float* out = t.out + (first_token + j) * t.out_stride + first_row + r;
      const float y = sums[r][j] + bias;
      *out = t.accumulate ? *out + y : y;
    }
  }
}

template <Decode decode>
void matmul_dequantized(const DequantizedMatmulTask& t) noexcept {
  const int64_t row_stride = padded(t.k);
  for (int64_t first = t.first_row; first < t.last_row; first += kDequantizedRows) {
    const int64_t left = t.last_row - first;
    const int64_t count = left < kDequantizedRows ? left : kDequantizedRows;
    for (int64_t r = 0; r < kDequantizedRows; ++r) {
      float* row = t.scratch + r * row_stride;
      if (r >= count) {
        std::memset(row, 0, static_cast<size_t>(row_stride) * sizeof(float));
        continue;
      }
      decode(t.weight + (first + r) * t.row_bytes, t.k, row);
      std::memset(row + t.k, 0, static_cast<size_t>(row_stride - t.k) * sizeof(float));
    }
    int64_t token = 0;
    for (; token + kTileRows <= t.n; token += kTileRows) {
      multiply_rows<kTileRows>(t, t.scratch, row_stride, first, count, token);
    }
    for (; token < t.n; ++token) multiply_rows<1>(t, t.scratch, row_stride, first, count, token);
  }
}

template <class Block, int kElements>
void decode_stored(const std::byte* row, int64_t k, float* out) noexcept {
  decode_row<Block, kElements>(row, k, out);
}

}  // namespace

constinit const Kernels kDequantizedMatmul = [] {
  Kernels kernels;
#define LLAMA_RT_SLOT(id, name, block, elements, ...)                                 \
  kernels.decode[static_cast<size_t>(DType::k##id)] = decode_stored<block, elements>; \
  kernels.dequantized_matmul[static_cast<size_t>(DType::k##id)] =                     \
      matmul_dequantized<decode_stored<block, elements>>;
  LLAMA_RT_DTYPES(LLAMA_RT_SLOT)
#undef LLAMA_RT_SLOT
  return kernels;
}();

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
