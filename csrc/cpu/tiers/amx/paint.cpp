// The amx tier: avx512_bf16, and on the matrix unit products of many inputs and attention of many
// queries. tests/amx runs them wherever there is a compiler.
#include "cpu/tiers/amx/paint.h"

namespace llama_rt::cpu::LLAMA_RT_TIER {

void paint(Kernels& kernels) {
  paint_attention_tiles(kernels);
  paint_float_tiles(kernels);
  paint_quantized_tiles(kernels);
}

}  // namespace llama_rt::cpu::LLAMA_RT_TIER
