// Products with float panels.
#include "cpu/tiers/avx512/lanes.h"  // first: the generic headers are written over it
#include "cpu/tiers/avx512/paint.h"
#include "cpu/tiers/generic/packed_float.h"

namespace llama_rt::cpu::LLAMA_RT_TIER {

void paint_float_products(Kernels& kernels) {
  paint_float<LinesF32>(kernels, DType::kF32);
  paint_float<LinesF16>(kernels, DType::kF16);
  paint_float<LinesBF16>(kernels, DType::kBF16);
}

}  // namespace llama_rt::cpu::LLAMA_RT_TIER
