// What depends on the family of the processor: one source of processor/ implements it, chosen by
// cmake/platform.cmake. What the operating system adds is in system.h.
#pragma once

#include <cstdint>
#include <string>

namespace llama_rt {

struct CpuInfo;

// Sets the instruction-set flags of `info` that processor and operating system both support, and
// `prefetches`.
void detect_isa(CpuInfo& info);

// The name its maker gave the processor; empty if unknown.
std::string processor_name();

// Tells the processor that the calling thread is waiting in a loop.
void spin_pause();

// Rounding mode, flush-to-zero and exception masks of the calling thread, without sticky flags.
uint64_t fp_control();

// Sets what fp_control() returned in this or another thread; sticky flags stay.
void set_fp_control(uint64_t control);

}  // namespace llama_rt
