// The ISA levels: which this build holds, which this processor runs, and the kernel table of each.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "cpu/kernel_table.h"

namespace llama_rt::cpu {

// A level that the processor has and that is not used all the same.
struct UnusedLevel {
  std::string_view name;
  std::string reason;
  bool built;  // it was compiled, and something else is wrong
};

std::string_view isa_name(Isa isa);

// Every level of this architecture, lowest first, in this build or not.
std::vector<std::string> isa_names();

// Levels of this build that the processor and the operating system support and that computed what
// scalar computes (self_check), lowest first; `scalar` is always among them. Checked once, at the
// first call.
const std::vector<Isa>& usable_levels();
const std::vector<UnusedLevel>& unused_levels();

// The best usable level that is not above `cap` (empty: above what LLAMA_RT_ISA says); throws
// ConfigError for an unknown name.
Isa choose_isa(const std::string& cap);

// The table of a usable level, with its ancestors' kernels where it has none of its own.
const Kernels& kernels_for(Isa isa);

// Why `kernels` cannot be used on this processor: an illegal instruction, or a small product or
// norm whose values differ from those of `scalar`. Empty if nothing is wrong. Takes microseconds.
// The inputs are whole numbers up to 127 and the weights few bits, so that rounding the inputs to 8
// bits or bf16 is exact and every level must give the same sums.
std::string self_check(const Kernels& kernels, const Kernels& scalar);

}  // namespace llama_rt::cpu
