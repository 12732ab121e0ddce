// Products with quantized panels.
#include "cpu/tiers/avx2/lanes.h"  // first: the generic headers are written over it
#include "cpu/tiers/avx2/paint.h"
#include "cpu/tiers/generic/packed_quantized.h"

namespace llama_rt::cpu::LLAMA_RT_TIER {

void paint_quantized_products(Kernels& kernels) {
  paint_quantized<FormatQ4_0>(kernels, DType::kQ4_0);
  paint_quantized<FormatQ4_1>(kernels, DType::kQ4_1);
  paint_quantized<FormatQ5_0>(kernels, DType::kQ5_0);
  paint_quantized<FormatQ5_1>(kernels, DType::kQ5_1);
  paint_quantized<FormatQ8_0>(kernels, DType::kQ8_0);
  paint_quantized<FormatQ2_K>(kernels, DType::kQ2_K);
  paint_quantized<FormatQ3_K>(kernels, DType::kQ3_K);
  paint_quantized<FormatQ4_K>(kernels, DType::kQ4_K);
  paint_quantized<FormatQ5_K>(kernels, DType::kQ5_K);
  paint_quantized<FormatQ6_K>(kernels, DType::kQ6_K);
}

}  // namespace llama_rt::cpu::LLAMA_RT_TIER
