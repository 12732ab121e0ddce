// What this processor can do and how much of it this process may use.
// Owns detection; choosing a kernel ISA level and a thread count from it belongs to the cpu
// backend.
#pragma once

#include <string>

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
  bool prefetches = false;    // streams are read fastest when software asks for nothing ahead
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

}  // namespace llama_rt
