// Puts the partial kernel tables of ISA levels together.
#pragma once

#include "cpu/kernels.h"

namespace llama_rt::cpu {

// Replaces the slots of `kernels` that `table` fills.
void register_kernels(Kernels& kernels, const Kernels& table);

}  // namespace llama_rt::cpu
