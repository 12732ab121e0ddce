// The scalar tier: generic kernels with vectors left to the compiler. Fills every slot.
#include "generic/kernels.h"

namespace llama_rt::cpu::LLAMA_RT_TIER {

void paint(Kernels& kernels) { paint_generic(kernels); }

}  // namespace llama_rt::cpu::LLAMA_RT_TIER
