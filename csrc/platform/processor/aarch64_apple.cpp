// What macOS says of an AArch64 processor, by sysctl.
#include <sys/sysctl.h>

#include <string>

#include "platform/processor.h"

namespace llama_rt {
namespace {

bool has_feature(const char* name) {
  int value = 0;
  size_t bytes = sizeof(value);
  return sysctlbyname(name, &value, &bytes, nullptr, 0) == 0 && value != 0;
}

}  // namespace

void detect_isa(CpuInfo& info) {
  info.prefetches = true;
  info.neon = true;
  info.neon_dotprod = has_feature("hw.optional.arm.FEAT_DotProd");
  info.neon_i8mm = info.neon_dotprod && has_feature("hw.optional.arm.FEAT_I8MM");
}

std::string processor_name() {
  char text[128] = {};
  size_t bytes = sizeof(text) - 1;
  return sysctlbyname("machdep.cpu.brand_string", text, &bytes, nullptr, 0) == 0 ? text : "";
}

}  // namespace llama_rt
