// The names of ARM processors by what they say of themselves.
#pragma once

#include <cstdint>
#include <string>

namespace llama_rt {

// `midr`: the main ID register (implementer in bits 24 to 31, part in bits 4 to 15). Names are
// those that util-linux's lscpu prints; an unknown part is told by its numbers.
std::string arm_part_name(uint64_t midr);

}  // namespace llama_rt
