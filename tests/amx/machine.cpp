// cpu_info() of a machine that has tiles: whoever includes tiles.h has them.
#define cpu_info detected_cpu_info
#include "platform/cpu_info.cpp"
#undef cpu_info

namespace llama_rt {

const CpuInfo& cpu_info() {
  static const CpuInfo info = [] {
    CpuInfo with_tiles = detected_cpu_info();
    with_tiles.amx = true;
    return with_tiles;
  }();
  return info;
}

}  // namespace llama_rt
