// The processor: what it can do, how much of it this process may use, and what depends on its
// family. What the operating system adds is in system.h; choosing an ISA level and a thread count
// from it belongs to the cpu backend.
#pragma once

#include <cstdint>
#include <string>

#include "core/function_ref.h"

namespace llama_rt {

// The instruction-set flags are nested ISA levels (each implies what it builds on) and are true
// only if both the processor and the operating system support them.
struct CpuInfo {
  bool avx2 = false;          // AVX2, FMA, F16C, BMI2
  bool avx2_vnni = false;     // + AVX-VNNI
  bool avx512 = false;        // F, BW, DQ, VL, VNNI
  bool avx512_bf16 = false;   // + BF16
  bool amx = false;           // + VBMI, TILE, INT8, BF16 and the permission to use tiles
  bool neon = false;          // AArch64's vectors, which convert half precision
  bool neon_dotprod = false;  // + the dot product of bytes
  bool neon_i8mm = false;     // + the matrix product of bytes
  bool prefetches = false;    // the hardware prefetcher suffices: software prefetch only slows it
  std::string model;          // brand string; empty if unknown
  int cores = 1;              // CPUs in the affinity mask
  int physical_cores = 1;     // those, counting SMT siblings once
  double quota = 0;           // CPUs' worth of time the control group allows; 0: no limit
  int default_threads = 1;  // LLAMA_RT_THREADS, else min(physical_cores, floor(quota)), at least 1
};

// Detected once, at the first call; the affinity mask is that of the thread that calls first.
const CpuInfo& cpu_info();

// A thread count as LLAMA_RT_THREADS gives it: a whole number from 1 to 1024; 0 for anything else.
int parse_thread_count(const char* text);

// --- What one source of processor/ implements, chosen by cmake/platform.cmake

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

// Calls `body`, which may hold instructions that this processor, or the emulator or hypervisor
// under it, announces and then refuses; false if it met an illegal instruction and was left there.
// Nothing in `body` may need a destructor or hold a lock when that happens. The process's own
// SIGILL handler is back in place afterwards, and gets the signals of other threads meanwhile.
bool runs_without_illegal_instruction(FunctionRef<void()> body);

// The name of an ARM processor. `midr`: the main ID register (implementer in bits 24 to 31, part in
// bits 4 to 15). Names are those that util-linux's lscpu prints; an unknown part is told by its
// numbers.
std::string arm_part_name(uint64_t midr);

}  // namespace llama_rt
