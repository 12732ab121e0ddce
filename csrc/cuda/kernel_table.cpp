#include "cuda/kernel_table.h"

#include <array>

namespace llama_rt::cuda {
namespace {

Kernels register_kernels(Tier tier) {
  Kernels kernels;
  kernels.tier = tier;
  register_elementwise(kernels);
  register_stored(kernels);
  register_products(kernels);
  register_attention(kernels);
  register_sample(kernels);
#if defined(LLAMA_RT_CUDA_SM90A)
  if (tier == Tier::kSm90a) {
    register_wgmma(kernels);
    register_attention_wgmma(kernels);
  }
#endif
  return kernels;
}

}  // namespace

std::string_view tier_name(Tier tier) {
  constexpr std::array<std::string_view, 2> kNames = {"sm80", "sm90a"};
  return kNames[static_cast<size_t>(tier)];
}

const Kernels& kernels_for(int major, int minor) {
#if defined(LLAMA_RT_CUDA_SM90A)
  static const Kernels sm90a = register_kernels(Tier::kSm90a);
  if (major == 9 && minor == 0) return sm90a;  // its code runs on no other
#endif
  (void)major, (void)minor;
  static const Kernels sm80 = register_kernels(Tier::kSm80);
  return sm80;
}

}  // namespace llama_rt::cuda
