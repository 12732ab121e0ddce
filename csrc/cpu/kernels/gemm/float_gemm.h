// Products with float panels, written once over a ISA level's simd.h. Each (row, token) is one
// chain of fused multiply-adds in the order of k: its bits do not depend on the tile, the batch or
// the thread.
#pragma once

#include "cpu/kernels/gemm/gemm_loop.h"
#include "cpu/kernels/gemm/panel.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {

// What a line of weights holds: kSteps steps, each a `weight` for one part of the rows and an
// `input` for all of them, added by `multiply`. Inputs of a line take kInputBytes of a token's row.
struct FloatInputs {
  static constexpr Activation kActivation = Activation::kF32;
  static constexpr int kMostTokens = kFloatTokens;
  using Weight = F;
  using Input = F;
  static int64_t row_bytes(int64_t k) { return f32_row_bytes(k); }
  template <int kStep>
  static LLAMA_RT_INLINE F input(const std::byte* x) {
    return f_set(reinterpret_cast<const float*>(x)[kStep]);
  }
  static LLAMA_RT_INLINE F multiply(F weight, F input, F sum) { return f_fma(weight, input, sum); }
};
struct LinesF32 : FloatInputs {
  static constexpr int kSteps = 1;
  static constexpr int kInputBytes = 4;
  template <int kStep>
  static LLAMA_RT_INLINE F weight(const std::byte* line, int part) {
    return f_load(reinterpret_cast<const float*>(line) + kLanes * part);
  }
};
struct LinesF16 : FloatInputs {
  static constexpr int kSteps = 2;
  static constexpr int kInputBytes = 8;
  template <int kStep>
  static LLAMA_RT_INLINE F weight(const std::byte* line, int part) {
    return f_half(line + 32 * kStep + 2 * kLanes * part);
  }
};
struct LinesBF16 : FloatInputs {
  static constexpr int kMostTokens = kPairTokens;
  static constexpr int kSteps = 2;
  static constexpr int kInputBytes = 8;
  template <int kStep>
  static LLAMA_RT_INLINE F weight(const std::byte* line, int part) {
    const I pairs = i_load(line + 4 * kLanes * part);
    return kStep == 0 ? f_bf16_even(pairs) : f_bf16_odd(pairs);
  }
};

template <class Lines>
struct FloatKernel {
  static constexpr int kMostTokens = Lines::kMostTokens;
  static constexpr int kPanels = 4;
  static constexpr int64_t kChunk = 512;  // lines: 32 KiB
  static int64_t steps(const PackedMatmulTask& task) { return task.panel_bytes / kLine; }

  // `kCount` panels from `panel` on, T tokens from `token` on.
  template <int T, int kCount>
  static LLAMA_RT_INLINE void run(const PackedMatmulTask& task, const Chunk& chunk, int64_t panel,
                                  int64_t token) {
    constexpr int P = kCount * kParts;
    // One input may do without (see quantized_tile.h): what is asked for is then there already.
    const int64_t ahead = T > 1 || task.prefetch ? kWeightsAhead / kCount : 0;
    const int64_t panel_bytes = task.panel_bytes;
    const int64_t stride = Lines::row_bytes(task.k);
    const std::byte* w = task.weight + panel * panel_bytes + chunk.begin * kLine;
    const std::byte* x = task.x + token * stride + chunk.begin * Lines::kInputBytes;
    F sum[P][T];
#pragma GCC unroll 64
    for (int i = 0; i < P * T; ++i) {
      const int p = i / T;
      sum[p][i % T] = take(chunk, panel + p / kParts, p % kParts, token + i % T);
    }
    for (int64_t line = chunk.begin; line < chunk.end; ++line) {
#pragma GCC unroll 4
      for (int p = 0; p < kCount; ++p) {
        __builtin_prefetch(w + p * panel_bytes + ahead, 0, 2);
      }
      step<0, T, P>(w, panel_bytes, x, stride, sum);
      if constexpr (Lines::kSteps == 2) step<1, T, P>(w, panel_bytes, x, stride, sum);
      w += kLine;
      x += Lines::kInputBytes;
    }
#pragma GCC unroll 64
    for (int i = 0; i < P * T; ++i) {
      const int p = i / T;
      put(task, chunk, panel + p / kParts, p % kParts, token + i % T, sum[p][i % T]);
    }
  }
  template <int kStep, int T, int P>
  static LLAMA_RT_INLINE void step(const std::byte* w, int64_t panel_bytes, const std::byte* x,
                                   int64_t stride, F (&sum)[P][T]) {
    typename Lines::Weight weight[P];
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
      weight[p] = Lines::template weight<kStep>(w + p / kParts * panel_bytes, p % kParts);
    }
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
      const typename Lines::Input input = Lines::template input<kStep>(x + t * stride);
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) sum[p][t] = Lines::multiply(weight[p], input, sum[p][t]);
    }
  }

  // Few tokens make few chains, so several panels run side by side (and as several streams).
  template <int T>
  static void tile(const PackedMatmulTask& task, const Chunk& chunk, int64_t panel, int64_t panels,
                   int64_t token) noexcept {
    constexpr int kAtOnce = panels_of_tile(T);
    int64_t p = 0;
    for (; p + kAtOnce <= panels; p += kAtOnce) run<T, kAtOnce>(task, chunk, panel + p, token);
    if constexpr (kAtOnce > 1) {
      for (; p < panels; ++p) run<T, 1>(task, chunk, panel + p, token);
    }
  }
  static void multiply(const PackedMatmulTask& task) noexcept {
    multiply_panels<FloatKernel>(task);
  }
};

template <class Lines>
constexpr void add_float_matmul(Kernels& kernels, DType dtype) {
  PackedFormat& slot = kernels.packed[static_cast<size_t>(dtype)];
  slot.multiply = FloatKernel<Lines>::multiply;
  slot.activation = Lines::kActivation;
}

constexpr Kernels float_matmul() {
  Kernels kernels;
  add_float_matmul<LinesF32>(kernels, DType::kF32);
  add_float_matmul<LinesF16>(kernels, DType::kF16);
  add_float_matmul<LinesBF16>(kernels, DType::kBF16);
  return kernels;
}

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
