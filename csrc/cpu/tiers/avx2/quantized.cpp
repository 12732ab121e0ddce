// Products with quantized panels.
#include "cpu/tiers/avx2/lanes.h"  // first: the generic headers are written over it
#include "cpu/tiers/avx2/paint.h"
#include "cpu/tiers/generic/packed_quantized.h"

namespace llama_rt::cpu::LLAMA_RT_TIER {

void paint_quantized_products(Kernels& kernels) { paint_all_quantized(kernels); }

}  // namespace llama_rt::cpu::LLAMA_RT_TIER
