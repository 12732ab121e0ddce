// GEMM and GEMV over float panels.
#include "cpu/levels.h"
#include "cpu/tiers/generic/packed_float.h"

namespace llama_rt::cpu::LLAMA_RT_TIER {

constinit const Kernels kFloatMatmul = float_matmul();

}  // namespace llama_rt::cpu::LLAMA_RT_TIER
