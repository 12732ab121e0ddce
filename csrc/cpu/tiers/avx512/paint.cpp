// The avx512 tier: generic kernels at 512 bits and products with panels by the 8-bit dot
// instruction. Packing and inputs are avx2's.
#include "cpu/tiers/avx512/paint.h"

#include "cpu/tiers/generic/kernels.h"

namespace llama_rt::cpu::LLAMA_RT_TIER {

void paint(Kernels& kernels) {
  paint_generic(kernels);
  paint_float_products(kernels);
  paint_quantized_products(kernels);
}

}  // namespace llama_rt::cpu::LLAMA_RT_TIER
