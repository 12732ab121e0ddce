// The functions that the generic sources define once per tier, and the table slots they fill.
#pragma once

#include "cpu/kernels.h"

namespace llama_rt::cpu::LLAMA_RT_TIER {

void rms_norm(const NormTask& task) noexcept;
void rope(const RopeTask& task) noexcept;
void swiglu(const SwigluTask& task) noexcept;
void paint_stored(Kernels& kernels);
void paint_kv(Kernels& kernels);
void paint_encode(Kernels& kernels);    // elements and blocks of 32, then
void paint_encode_k(Kernels& kernels);  // K blocks

// Every generic kernel; a tier's paint() starts with it.
inline void paint_generic(Kernels& kernels) {
  kernels.rms_norm = rms_norm;
  kernels.rope = rope;
  kernels.swiglu = swiglu;
  paint_stored(kernels);
  paint_kv(kernels);
  paint_encode(kernels);
}

}  // namespace llama_rt::cpu::LLAMA_RT_TIER
