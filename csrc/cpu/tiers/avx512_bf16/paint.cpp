// The avx512_bf16 tier: avx512 with the bf16 dot instruction in products with bf16 panels and in
// attention over a bf16 cache.
#include "cpu/tiers/avx512_bf16/paint.h"

namespace llama_rt::cpu::LLAMA_RT_TIER {

void paint(Kernels& kernels) {
  paint_float_products(kernels);
  paint_attention(kernels);
}

}  // namespace llama_rt::cpu::LLAMA_RT_TIER
