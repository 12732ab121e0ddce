// cpu_info() of a processor that has every ISA level.
#define cpu_info detected_cpu_info
#include "platform/processor.cpp"
#undef cpu_info

namespace llama_rt {

const CpuInfo& cpu_info() {
  static const CpuInfo info = [] {
    CpuInfo all = detected_cpu_info();
    all.avx2_vnni = all.avx512 = all.avx512_bf16 = all.amx = true;
    return all;
  }();
  return info;
}

}  // namespace llama_rt
