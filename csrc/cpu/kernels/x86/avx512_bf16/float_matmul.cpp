// Matmul over bf16 panels by the pair dot product; inputs are rounded to bf16.
#include "cpu/kernel_table.h"
#include "cpu/kernels/gemm/float_gemm.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {
namespace {

struct LinesBF16Pairs {
  static constexpr Activation kActivation = Activation::kBF16;
  static constexpr int kMostTokens = kPairTokens;
  static constexpr int kSteps = 1;
  static constexpr int kInputBytes = 4;
  using Weight = I;
  using Input = I;
  static int64_t row_bytes(int64_t k) { return bf16_row_bytes(k); }
  template <int kStep>
  static LLAMA_RT_INLINE I weight(const std::byte* line, int) {
    return i_load(line);
  }
  template <int kStep>
  static LLAMA_RT_INLINE I input(const std::byte* x) {
    int32_t pair;
    __builtin_memcpy(&pair, x, sizeof(pair));
    return i_set(pair);
  }
  static LLAMA_RT_INLINE F multiply(I weight, I input, F sum) {
#ifdef __clang__
    // Clang 16 crashes when it folds a broadcast into a vector of bf16; it must not see one.
    asm("" : "+v"(input));
#endif
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(weight),
                            reinterpret_cast<__m512bh>(input));
  }
};

}  // namespace

constinit const Kernels kFloatMatmul = [] {
  Kernels kernels;
  add_float_matmul<LinesBF16Pairs>(kernels, DType::kBF16);
  return kernels;
}();

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
