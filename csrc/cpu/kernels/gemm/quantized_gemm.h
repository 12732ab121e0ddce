// GEMM and GEMV over quantized panels of one ISA level: tiles of each format in the loops around
// them.
#pragma once

#include "cpu/kernels/gemm/gemm_loop.h"
#include "cpu/kernels/gemm/quantized_tile.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {

template <class Format>
struct QuantizedKernel {
  using Shape = typename Format::Shape;
  static constexpr int kMostTokens = kTokens;
  static constexpr int kPanels = 1;
  static constexpr int64_t kChunk = 32;  // units: 2048 k, whole super-blocks
  static int64_t steps(const PackedMatmulTask& task) { return Shape::units(task.k); }

  template <int T, int P, int kFirst>
  static LLAMA_RT_INLINE void parts(const PackedMatmulTask& task, const Chunk& chunk, int64_t panel,
                                    int64_t token) {
    const int64_t row_bytes = q8_row_bytes(task.k);
    const std::byte* weight = task.weight + panel * task.panel_bytes + Shape::offset(chunk.begin);
    const std::byte* x =
        task.x + token * row_bytes + chunk.begin * 2 * static_cast<int64_t>(sizeof(Q8Record));
    QuantizedTile<Format, T, P, kFirst> tile;
#pragma GCC unroll 16
    for (int i = 0; i < P * T; ++i) {
      tile.sum[i / T][i % T] = take(chunk, panel, kFirst + i / T, token + i % T);
    }
    tile.run(weight, {x, row_bytes}, chunk.end - chunk.begin, task.prefetch);
#pragma GCC unroll 16
    for (int i = 0; i < P * T; ++i) {
      put(task, chunk, panel, kFirst + i / T, token + i % T, tile.sum[i / T][i % T]);
    }
  }
  template <int T, int P, int kFirst>
  static LLAMA_RT_INLINE void all_parts(const PackedMatmulTask& task, const Chunk& chunk,
                                        int64_t panel, int64_t token) {
    parts<T, P, kFirst>(task, chunk, panel, token);
    if constexpr (kFirst + P < kParts) all_parts<T, P, kFirst + P>(task, chunk, panel, token);
  }
  template <int T>
  static void tile(const PackedMatmulTask& task, const Chunk& chunk, int64_t panel, int64_t,
                   int64_t token) noexcept {
    all_parts<T, parts_of_tile(T), 0>(task, chunk, panel, token);
  }
  static void multiply(const PackedMatmulTask& task) noexcept {
    multiply_panels<QuantizedKernel>(task);
  }
};

template <class Kernel>
constexpr void add_quantized_matmul(Kernels& kernels, DType dtype) {
  PackedFormat& format = kernels.packed[static_cast<size_t>(dtype)];
  format.multiply = Kernel::multiply;
  format.activation = Activation::kQ8;
}

// Kernel<Format>: GEMM and GEMV of a format.
template <template <class> class Kernel = QuantizedKernel>
constexpr Kernels quantized_matmul() {
  Kernels kernels;
  add_quantized_matmul<Kernel<FormatQ4_0>>(kernels, DType::kQ4_0);
  add_quantized_matmul<Kernel<FormatQ4_1>>(kernels, DType::kQ4_1);
  add_quantized_matmul<Kernel<FormatQ5_0>>(kernels, DType::kQ5_0);
  add_quantized_matmul<Kernel<FormatQ5_1>>(kernels, DType::kQ5_1);
  add_quantized_matmul<Kernel<FormatQ8_0>>(kernels, DType::kQ8_0);
  add_quantized_matmul<Kernel<FormatQ2_K>>(kernels, DType::kQ2_K);
  add_quantized_matmul<Kernel<FormatQ3_K>>(kernels, DType::kQ3_K);
  add_quantized_matmul<Kernel<FormatQ4_K>>(kernels, DType::kQ4_K);
  add_quantized_matmul<Kernel<FormatQ5_K>>(kernels, DType::kQ5_K);
  add_quantized_matmul<Kernel<FormatQ6_K>>(kernels, DType::kQ6_K);
  add_quantized_matmul<Kernel<FormatIQ4_NL>>(kernels, DType::kIQ4_NL);
  add_quantized_matmul<Kernel<FormatIQ4_XS>>(kernels, DType::kIQ4_XS);
  return kernels;
}

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
