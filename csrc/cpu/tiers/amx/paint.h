// The parts of this tier's paint().
#pragma once

#include "cpu/kernels.h"

namespace llama_rt::cpu::LLAMA_RT_TIER {

void paint_attention_tiles(Kernels& kernels);
void paint_float_tiles(Kernels& kernels);
void paint_quantized_tiles(Kernels& kernels);

}  // namespace llama_rt::cpu::LLAMA_RT_TIER
