// AArch64, on any system: FPCR, whose bits are control alone (sticky flags are in FPSR). What a
// processor has only its system can tell: aarch64_<system>.cpp.
#include "platform/processor.h"

namespace llama_rt {

void spin_pause() { asm volatile("yield"); }

uint64_t fp_control() {
  uint64_t control = 0;
  asm volatile("mrs %0, fpcr" : "=r"(control));
  return control;
}

void set_fp_control(uint64_t control) {
  if (fp_control() != control) asm volatile("msr fpcr, %0" : : "r"(control));
}

}  // namespace llama_rt
