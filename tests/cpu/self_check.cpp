// The self check on tables with known faults: prints a line `case: what it says` for each.
#include <signal.h>

#include <cstdio>

#include "cpu/isa.h"
#include "cpu/kernel_table.h"

namespace {

using namespace llama_rt;
using namespace llama_rt::cpu;

Kernels scalar_kernels() {
  Kernels kernels;
  register_kernels(kernels, scalar::kElementwise);
  register_kernels(kernels, scalar::kDequantizedMatmul);
  register_kernels(kernels, scalar::kEncode);
  return kernels;
}

void norm_without_gain(const NormTask& task) noexcept {
  for (int64_t i = 0; i < task.d; ++i) task.out[i] = task.x[i];
}

void refused_norm(const NormTask&) noexcept { __builtin_trap(); }

void product_of_nothing(const DequantizedMatmulTask& task) noexcept {
  for (int64_t i = 0; i < task.n * task.out_stride; ++i) task.out[i] = 0.0f;
}

void nan_product(const DequantizedMatmulTask& task) noexcept {
  for (int64_t i = 0; i < task.n * task.out_stride; ++i) task.out[i] = __builtin_nanf("");
}

int handled = 0;
void count_signal(int) { ++handled; }

void say(const char* name, const Kernels& kernels) {
  std::printf("%s: %s\n", name, self_check(kernels, scalar_kernels()).c_str());
}

}  // namespace

int main() {
  signal(SIGILL, count_signal);
  Kernels kernels = scalar_kernels();
  say("right", kernels);
  kernels.rms_norm = norm_without_gain;
  say("norm", kernels);
  kernels.rms_norm = refused_norm;
  say("refused", kernels);
  kernels = scalar_kernels();
  kernels.dequantized_matmul[static_cast<size_t>(DType::kQ8_0)] = product_of_nothing;
  say("product", kernels);
  kernels.dequantized_matmul[static_cast<size_t>(DType::kQ8_0)] = nan_product;
  say("nan", kernels);
  raise(SIGILL);
  std::printf("host's signals: %d\n", handled);
}
