// GEMM and GEMV over quantized panels.
#include "cpu/levels.h"
#include "cpu/tiers/generic/packed_quantized.h"

namespace llama_rt::cpu::LLAMA_RT_TIER {

constinit const Kernels kQuantizedMatmul = quantized_matmul<>();

}  // namespace llama_rt::cpu::LLAMA_RT_TIER
