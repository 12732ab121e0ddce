// A processor that nothing is known about: it runs what the compiler makes for it.
#include "platform/processor.h"

namespace llama_rt {

void detect_isa(CpuInfo&) {}

std::string processor_name() { return {}; }

void spin_pause() {}

uint64_t fp_control() { return 0; }

void set_fp_control(uint64_t) {}

}  // namespace llama_rt
