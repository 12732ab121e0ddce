// The amx tier: everything is inherited from avx512_bf16.
#include "cpu/kernels.h"

namespace llama_rt::cpu::LLAMA_RT_TIER {

void paint(Kernels&) {}

}  // namespace llama_rt::cpu::LLAMA_RT_TIER
