// The parts of this tier's paint().
#pragma once

#include "cpu/kernels.h"

namespace llama_rt::cpu::LLAMA_RT_TIER {

void paint_float_products(Kernels& kernels);
void paint_attention(Kernels& kernels);

}  // namespace llama_rt::cpu::LLAMA_RT_TIER
