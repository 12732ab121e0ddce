// GEMM and GEMV over float panels.
#include "cpu/levels.h"
#include "cpu/tiers/generic/packed_float.h"

namespace llama_rt::cpu::LLAMA_RT_TIER {

constinit const Kernels kFloatMatmul = [] {
  Kernels kernels;
  add_float_matmul<LinesF32>(kernels, DType::kF32);
  add_float_matmul<LinesF16>(kernels, DType::kF16);
  add_float_matmul<LinesBF16>(kernels, DType::kBF16);
  return kernels;
}();

}  // namespace llama_rt::cpu::LLAMA_RT_TIER
