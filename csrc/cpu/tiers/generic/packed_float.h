// Products with float panels, written once over a tier's lanes.h. Inputs are float32 rows; weights
// are widened on the way. Each (row, token) is one chain of fused multiply-adds in the order of k.
#pragma once

#include "cpu/tiers/generic/packed_multiply.h"
#include "cpu/tiers/generic/panel.h"

namespace llama_rt::cpu::LLAMA_RT_TIER {

// A line of weights holds kPerLine consecutive k of 16 rows; `at` widens the i-th for one part.
struct LinesF32 {
  static constexpr int kPerLine = 1;
  template <int i>
  static LLAMA_RT_INLINE F at(const std::byte* line, int part) {
    return f_load(reinterpret_cast<const float*>(line) + kLanes * part);
  }
};
struct LinesF16 {
  static constexpr int kPerLine = 2;
  template <int i>
  static LLAMA_RT_INLINE F at(const std::byte* line, int part) {
    return f_half(line + 32 * i + 2 * kLanes * part);
  }
};
struct LinesBF16 {
  static constexpr int kPerLine = 2;
  template <int i>
  static LLAMA_RT_INLINE F at(const std::byte* line, int part) {
    const I pairs = i_load(line + 4 * kLanes * part);
    return i == 0 ? f_bf16_even(pairs) : f_bf16_odd(pairs);
  }
};

template <class Lines>
struct FloatKernel {
  // `kPanels` panels from `panel` on, T tokens from `token` on.
  template <int T, int kPanels>
  static LLAMA_RT_INLINE void run(const PackedTask& task, int64_t panel, int64_t token) {
    constexpr int P = kPanels * kParts;
    const std::byte* w = task.weight + panel * task.panel_bytes;
    const float* x = reinterpret_cast<const float*>(task.x + token * f32_row_bytes(task.k));
    const int64_t stride = f32_row_bytes(task.k) / static_cast<int64_t>(sizeof(float));
    const int64_t panel_bytes = task.panel_bytes;
    F sum[P][T];
#pragma GCC unroll 64
    for (int i = 0; i < P * T; ++i) sum[i / T][i % T] = f_zero();
    const int64_t lines = panel_bytes / kLine;
    for (int64_t line = 0; line < lines; ++line) {
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        _mm_prefetch(reinterpret_cast<const char*>(w + p * panel_bytes + kFloatsAhead),
                     _MM_HINT_T0);
      }
      step<0, T, P>(w, panel_bytes, x, stride, sum);
      if constexpr (Lines::kPerLine == 2) step<1, T, P>(w, panel_bytes, x + 1, stride, sum);
      w += kLine;
      x += Lines::kPerLine;
    }
#pragma GCC unroll 64
    for (int i = 0; i < P * T; ++i) {
      const int p = i / T;
      put(task, panel + p / kParts, p % kParts, token + i % T, sum[p][i % T]);
    }
  }
  template <int kInLine, int T, int P>
  static LLAMA_RT_INLINE void step(const std::byte* w, int64_t panel_bytes, const float* x,
                                   int64_t stride, F (&sum)[P][T]) {
    F weight[P];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      weight[p] = Lines::template at<kInLine>(w + p / kParts * panel_bytes, p % kParts);
    }
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
      const F input = f_set(x[t * stride]);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) sum[p][t] = f_fma(weight[p], input, sum[p][t]);
    }
  }
  static constexpr int64_t kFloatsAhead = 2048;  // bytes of prefetch, in each panel

  // Few tokens make few chains, so several panels run side by side (and as several streams).
  template <int T>
  static void tile(const PackedTask& task, int64_t panel, int64_t panels, int64_t token) noexcept {
    constexpr int kAtOnce = T == 1 ? 4 / kParts : T == 2 ? 2 : 1;
    int64_t p = 0;
    for (; p + kAtOnce <= panels; p += kAtOnce) run<T, kAtOnce>(task, panel + p, token);
    if constexpr (kAtOnce > 1) {
      for (; p < panels; ++p) run<T, 1>(task, panel + p, token);
    }
  }
  static void multiply(const PackedTask& task) noexcept {
    multiply_panels<FloatKernel, kFloatTokens, 4>(task, f32_row_bytes(task.k));
  }
};

template <class Lines>
inline void paint_float(Kernels& kernels, DType dtype) {
  PackedFormat& slot = kernels.packed[static_cast<size_t>(dtype)];
  slot.multiply = FloatKernel<Lines>::multiply;
  slot.activation = Activation::kF32;
}

}  // namespace llama_rt::cpu::LLAMA_RT_TIER
