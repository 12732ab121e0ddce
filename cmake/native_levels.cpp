// Prints the ISA levels of the machine that compiles, as a CMake list.
#include <cstdio>

#include "platform/cpu_info.h"
#include "platform/processor.h"

int main() {
  llama_rt::CpuInfo cpu;
  llama_rt::detect_isa(cpu);
  std::fputs("scalar", stdout);
  if (cpu.avx2) std::fputs(";avx2", stdout);
  if (cpu.avx2_vnni) std::fputs(";avx2_vnni", stdout);
  if (cpu.avx512) std::fputs(";avx512", stdout);
  if (cpu.avx512_bf16) std::fputs(";avx512_bf16", stdout);
  if (cpu.amx) std::fputs(";amx", stdout);
  if (cpu.neon) std::fputs(";neon", stdout);
  if (cpu.neon_dotprod) std::fputs(";neon_dotprod", stdout);
  if (cpu.neon_i8mm) std::fputs(";neon_i8mm", stdout);
}
