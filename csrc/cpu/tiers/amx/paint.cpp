// The amx tier: avx512_bf16, and products of many inputs on the matrix unit. tests/amx runs them
// wherever there is a compiler.
#include "cpu/tiers/amx/paint.h"

namespace llama_rt::cpu::LLAMA_RT_TIER {

void paint(Kernels& kernels) {
  paint_float_tiles(kernels);
  paint_quantized_tiles(kernels);
}

}  // namespace llama_rt::cpu::LLAMA_RT_TIER
