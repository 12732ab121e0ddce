#include "cuda/kernel_table.h"

#include <array>

namespace llama_rt::cuda {
namespace {

Kernels paint(Tier tier) {
  Kernels kernels;
  kernels.tier = tier;
  paint_elementwise(kernels);
  paint_stored(kernels);
  paint_products(kernels);
  paint_attention(kernels);
  paint_sample(kernels);
#if defined(LLAMA_RT_CUDA_SM90A)
  if (tier == Tier::kSm90a) {
    paint_wgmma(kernels);
    paint_attention_wgmma(kernels);
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
  static const Kernels sm90a = paint(Tier::kSm90a);
  if (major == 9 && minor == 0) return sm90a;  // its code runs on no other
#endif
  (void)major, (void)minor;
  static const Kernels sm80 = paint(Tier::kSm80);
  return sm80;
}

}  // namespace llama_rt::cuda
