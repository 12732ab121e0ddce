// The products with quantized panels of one tier: instantiates packed_quantized.h for each format.
#pragma once

#include "cpu/tiers/generic/packed_multiply.h"
#include "cpu/tiers/generic/packed_quantized.h"

namespace llama_rt::cpu::LLAMA_RT_TIER {

template <class Format>
struct QuantizedKernel {
  template <int T, int P, int kFirst>
  static LLAMA_RT_INLINE void parts(const PackedTask& task, int64_t panel, int64_t token) {
    const int64_t row_bytes = q8_row_bytes(task.k);
    QuantizedTile<Format, T, P, kFirst> tile;
    tile.run(task.weight + panel * task.panel_bytes, {task.x + token * row_bytes, row_bytes},
             Format::Shape::units(task.k));
#pragma GCC unroll 16
    for (int i = 0; i < P * T; ++i) {
      put(task, panel, kFirst + i / T, token + i % T, tile.sum[i / T][i % T]);
    }
  }
  template <int T>
  static void tile(const PackedTask& task, int64_t panel, int64_t, int64_t token) noexcept {
    if constexpr (kParts == 1) {
      parts<T, 1, 0>(task, panel, token);
    } else if constexpr (T <= kTokens / 2) {
      parts<T, 2, 0>(task, panel, token);
    } else {
      parts<T, 1, 0>(task, panel, token);
      parts<T, 1, 1>(task, panel, token);
    }
  }
  static void multiply(const PackedTask& task) noexcept {
    multiply_panels<QuantizedKernel, kTokens, 1>(task, q8_row_bytes(task.k));
  }
};

template <class Format>
inline void paint_quantized(Kernels& kernels, DType dtype) {
  PackedFormat& slot = kernels.packed[static_cast<size_t>(dtype)];
  slot.multiply = QuantizedKernel<Format>::multiply;
  slot.activation = Activation::kQ8;
}

}  // namespace llama_rt::cpu::LLAMA_RT_TIER
