// The partial kernel tables that the ISA levels export. They are data, initialised by the compiler
// (constinit): no function that was compiled with a level's instructions runs before that level is
// chosen. isa.cpp lists which tables make up a level, and cmake/check_levels.py audits the objects.
#pragma once

#include "cpu/kernel_table.h"

namespace llama_rt::cpu {

#define LLAMA_RT_DECLARE_TABLES(level, ...) \
  namespace level {                         \
  extern const Kernels __VA_ARGS__;         \
  }
// What kernels/common compiles for every level that has a simd.h.
#define LLAMA_RT_COMMON_TABLES \
  kElementwise, kDequantizedMatmul, kAttention, kEncode, kEncodeK, kScan
// What kernels/gemm compiles for the levels that pack panels; those above inherit them.
#define LLAMA_RT_PANEL_TABLES kActivationFormats, kFloatPacking, kQuantizedPacking

LLAMA_RT_DECLARE_TABLES(scalar, LLAMA_RT_COMMON_TABLES)
LLAMA_RT_DECLARE_TABLES(avx2, LLAMA_RT_COMMON_TABLES, LLAMA_RT_PANEL_TABLES, kFloatMatmul,
                        kQuantizedMatmul)
LLAMA_RT_DECLARE_TABLES(avx2_vnni, kQuantizedMatmul)
LLAMA_RT_DECLARE_TABLES(avx512, LLAMA_RT_COMMON_TABLES, kFloatMatmul, kQuantizedMatmul)
LLAMA_RT_DECLARE_TABLES(avx512_bf16, kFloatMatmul, kAttention)
LLAMA_RT_DECLARE_TABLES(amx, kTiledAttention, kTiledFloatMatmul, kTiledQuantizedMatmul)
LLAMA_RT_DECLARE_TABLES(neon, LLAMA_RT_COMMON_TABLES, LLAMA_RT_PANEL_TABLES, kFloatMatmul,
                        kQuantizedMatmul)
LLAMA_RT_DECLARE_TABLES(neon_dotprod, kQuantizedMatmul)
LLAMA_RT_DECLARE_TABLES(neon_i8mm, kQuantizedMatmul)

#undef LLAMA_RT_PANEL_TABLES
#undef LLAMA_RT_COMMON_TABLES
#undef LLAMA_RT_DECLARE_TABLES

}  // namespace llama_rt::cpu
