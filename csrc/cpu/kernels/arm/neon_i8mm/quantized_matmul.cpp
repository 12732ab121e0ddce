// GEMM over quantized panels by matrix instructions, GEMV by the dot product.
#include "cpu/kernel_table.h"
#include "cpu/kernels/arm/neon_i8mm/matrix_kernel.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {

constinit const Kernels kQuantizedMatmul = quantized_matmul<MatrixKernel>();

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
