// Norm, rotary, SwiGLU: one token at a time, no cross-token state.
#include "cpu/kernel_table.h"
#include "cpu/kernels/common/math.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {
namespace {

inline float inverse_sqrt(float a) { return 1.0f / __builtin_sqrtf(a); }

// y = x / sqrt(mean(x^2) + eps) * gain, in float32 (llama_family: RMSNorm).
void rms_norm(const NormTask& t) noexcept {
  F32x16 squares = zero();
  const int64_t whole = t.d / 16 * 16;
  for (int64_t i = 0; i < whole; i += 16) {
    const F32x16 x = load(t.x + i);
    squares = fma(x, x, squares);
  }
  if (whole < t.d) {
    const F32x16 x = load_partial(t.x + whole, t.d - whole);
    squares = fma(x, x, squares);
  }
  const F32x16 scale = set1(inverse_sqrt(reduce_add(squares) / static_cast<float>(t.d) + t.eps));
  for (int64_t i = 0; i < whole; i += 16) {
    store(t.out + i, mul(mul(load(t.x + i), scale), load(t.gain + i)));
  }
  if (whole < t.d) {
    const int64_t rest = t.d - whole;
    const F32x16 x = load_partial(t.x + whole, rest);
    store_partial(t.out + whole, mul(mul(x, scale), load_partial(t.gain + whole, rest)), rest);
  }
}

void rope(const RopeTask& t) noexcept {
  const int64_t half = t.e / 2;
  const int64_t first = t.style == RopeStyle::kInterleaved ? 2 : 1;
  const int64_t second = t.style == RopeStyle::kInterleaved ? 1 : half;
  for (int64_t h = 0; h < t.heads; ++h) {
    float* x = t.x + h * t.e;
    for (int64_t i = 0; i < half; ++i) {
      const float a = x[first * i], b = x[first * i + second];
      x[first * i] = a * t.cos[i] - b * t.sin[i];
      x[first * i + second] = a * t.sin[i] + b * t.cos[i];
    }
  }
}

// gate / (1 + e^-gate) * up
void swiglu(const SwigluTask& t) noexcept {
  const F32x16 one = set1(1.0f);
  const auto act = [one](F32x16 gate, F32x16 up) {
    return mul(div(gate, add(one, exp(sub(zero(), gate)))), up);
  };
  const int64_t whole = t.count / 16 * 16;
  for (int64_t i = 0; i < whole; i += 16) store(t.out + i, act(load(t.gate + i), load(t.up + i)));
  if (whole < t.count) {
    const int64_t rest = t.count - whole;
    const F32x16 gate = load_partial(t.gate + whole, rest);
    store_partial(t.out + whole, act(gate, load_partial(t.up + whole, rest)), rest);
  }
}

}  // namespace

constinit const Kernels kElementwise = [] {
  Kernels kernels;
  kernels.rms_norm = rms_norm;
  kernels.rope = rope;
  kernels.swiglu = swiglu;
  return kernels;
}();

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
