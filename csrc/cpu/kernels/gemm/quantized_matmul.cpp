// GEMM and GEMV over quantized panels.
#include "cpu/kernels/gemm/quantized_gemm.h"
#include "cpu/levels.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {

constinit const Kernels kQuantizedMatmul = quantized_matmul<>();

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
