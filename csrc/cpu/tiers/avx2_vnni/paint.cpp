// The avx2_vnni tier: avx2 with the 8-bit dot instruction in products with quantized panels.
#include "cpu/tiers/avx2_vnni/paint.h"

namespace llama_rt::cpu::LLAMA_RT_TIER {

void paint(Kernels& kernels) { paint_quantized_products(kernels); }

}  // namespace llama_rt::cpu::LLAMA_RT_TIER
