// Prints the ISA levels of the machine that compiles, as a CMake list.
#include <cstdio>

#include "platform/processor.h"

int main() {
  llama_rt::CpuInfo cpu;
  llama_rt::detect_isa(cpu);
  std::fputs("scalar", stdout);
#define LEVEL(isa, name, parent) \
  if (cpu.name) std::fputs(";" #name, stdout);
#include "cpu/isa_list.inc"
}
