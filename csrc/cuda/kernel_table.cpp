#include "cuda/kernel_table.h"

#include <array>

namespace llama_rt::cuda {
namespace {

Kernels register_kernels(SmArch arch) {
  Kernels kernels;
  kernels.arch = arch;
  register_elementwise(kernels);
  register_dequantized_matmul(kernels);
  register_matmul(kernels);
  register_attention(kernels);
  register_sample(kernels);
#if defined(LLAMA_RT_CUDA_SM90A)
  if (arch == SmArch::kSm90a) {
    register_wgmma(kernels);
    register_attention_wgmma(kernels);
  }
#endif
  return kernels;
}

}  // namespace

std::string_view sm_arch_name(SmArch arch) {
  constexpr std::array<std::string_view, 2> kNames = {"sm80", "sm90a"};
  return kNames[static_cast<size_t>(arch)];
}

const Kernels& kernels_for(int major, int minor) {
#if defined(LLAMA_RT_CUDA_SM90A)
  static const Kernels sm90a = register_kernels(SmArch::kSm90a);
  if (major == 9 && minor == 0) return sm90a;  // its code runs on no other
#endif
  (void)major, (void)minor;
  static const Kernels sm80 = register_kernels(SmArch::kSm80);
  return sm80;
}

}  // namespace llama_rt::cuda
