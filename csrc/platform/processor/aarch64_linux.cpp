// What Linux says of an AArch64 processor: capabilities in the auxiliary vector, and the main ID
// register of each CPU.
#include <sys/auxv.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "platform/cgroup.h"
#include "platform/processor.h"
#include "platform/system.h"

namespace llama_rt {
namespace {

// Bits of AT_HWCAP and AT_HWCAP2 (Linux: Documentation/arch/arm64/elf_hwcaps.rst); the C library
// may be older than they are.
constexpr unsigned long kAsimd = 1ul << 1, kCpuid = 1ul << 11, kAsimdDp = 1ul << 20;
constexpr unsigned long kI8mm2 = 1ul << 13;

bool has_capability(unsigned long bit) { return (getauxval(AT_HWCAP) & bit) != 0; }

// The register of the CPU that runs this, which the kernel reads for the program; 0 if it does not.
uint64_t own_midr() {
  uint64_t midr = 0;
  if (has_capability(kCpuid)) asm("mrs %0, midr_el1" : "=r"(midr));
  return midr;
}

uint64_t midr_of(int cpu) {
  const std::string folder = "/sys/devices/system/cpu/cpu" + std::to_string(cpu);
  const auto text = read_text_file(folder + "/regs/identification/midr_el1");
  return text ? std::strtoull(text->c_str(), nullptr, 16) : 0;
}

}  // namespace

void detect_isa(CpuInfo& info) {
  info.prefetches = true;
  info.neon = has_capability(kAsimd);
  info.neon_dotprod = info.neon && has_capability(kAsimdDp);
  info.neon_i8mm = info.neon_dotprod && (getauxval(AT_HWCAP2) & kI8mm2) != 0;
}

// Phones and small computers have cores of several kinds: all are named.
std::string processor_name() {
  std::vector<std::string> names;
  for (const int cpu : usable_cpus()) {
    const uint64_t midr = midr_of(cpu);
    if (midr == 0) continue;
    std::string name = arm_part_name(midr);
    if (std::ranges::find(names, name) == names.end()) names.push_back(std::move(name));
  }
  if (names.empty() && own_midr() != 0) names.push_back(arm_part_name(own_midr()));
  std::string all;
  for (const std::string& name : names) all += (all.empty() ? "" : " + ") + name;
  return all;
}

}  // namespace llama_rt
