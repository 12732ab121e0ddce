// Whether the kernels of an ISA level compute here what scalar computes.
#pragma once

#include <string>

#include "cpu/kernel_table.h"

namespace llama_rt::cpu {

// Why `kernels` cannot be used on this processor: an illegal instruction, or a small product or
// norm whose values differ from those of `scalar`. Empty if nothing is wrong. Takes microseconds.
// The inputs are whole numbers up to 127 and the weights few bits, so that rounding the inputs to 8
// bits or bf16 is exact and every level must give the same sums.
std::string self_check(const Kernels& kernels, const Kernels& scalar);

}  // namespace llama_rt::cpu
