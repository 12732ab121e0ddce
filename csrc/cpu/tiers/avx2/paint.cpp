// The avx2 tier: generic kernels at 256 bits, packing and inputs for every packed format (tiers
// above inherit those), products by 16-bit multiply-add.
#include "cpu/tiers/avx2/paint.h"

#include "cpu/tiers/generic/kernels.h"

namespace llama_rt::cpu::LLAMA_RT_TIER {

void paint(Kernels& kernels) {
  paint_generic(kernels);
  paint_activations(kernels);
  paint_float_packing(kernels);
  paint_quantized_packing(kernels);
  paint_float_products(kernels);
  paint_quantized_products(kernels);
}

}  // namespace llama_rt::cpu::LLAMA_RT_TIER
