// The avx512_bf16 tier.
#include "cpu/kernels.h"

namespace llama_rt::cpu::LLAMA_RT_TIER {

// Everything is inherited from avx512.
void paint(Kernels&) {}

}  // namespace llama_rt::cpu::LLAMA_RT_TIER
