// GEMM and GEMV over float panels.
#include "cpu/kernel_table.h"
#include "cpu/kernels/gemm/float_gemm.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {

constinit const Kernels kFloatMatmul = float_matmul();

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
