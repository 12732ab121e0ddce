// An AArch64 processor on a system that is not asked: it has what all of them have.
#include "platform/processor.h"

namespace llama_rt {

void detect_isa(CpuInfo& info) {
  info.prefetches = true;
  info.neon = true;
}

std::string processor_name() { return {}; }

}  // namespace llama_rt
