// GEMM and GEMV over quantized panels.
#include "cpu/kernel_table.h"
#include "cpu/kernels/gemm/quantized_gemm.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {

constinit const Kernels kQuantizedMatmul = quantized_matmul<>();

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
