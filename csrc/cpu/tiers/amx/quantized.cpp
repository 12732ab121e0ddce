// Products of many inputs with quantized panels.
#include "cpu/tiers/amx/expand.h"
#include "cpu/tiers/amx/paint.h"

namespace llama_rt::cpu::LLAMA_RT_TIER {
namespace {

// From here on expanding a tile costs less than the 8-bit dot products of its weights.
constexpr int64_t kMinTokens = 16;

template <class Format>
void slot(Kernels& kernels, DType dtype) {
  kernels.packed[static_cast<size_t>(dtype)].wide = {QuantizedExpansion<Format>::multiply,
                                                     Activation::kTiles,
                                                     kMinTokens,
                                                     0,
                                                     kSweepScratch,
                                                     kSweepPanels};
}

}  // namespace

void paint_quantized_tiles(Kernels& kernels) {
  slot<FormatQ4_0>(kernels, DType::kQ4_0);
  slot<FormatQ4_1>(kernels, DType::kQ4_1);
  slot<FormatQ5_0>(kernels, DType::kQ5_0);
  slot<FormatQ5_1>(kernels, DType::kQ5_1);
  slot<FormatQ8_0>(kernels, DType::kQ8_0);
  slot<FormatQ2_K>(kernels, DType::kQ2_K);
  slot<FormatQ3_K>(kernels, DType::kQ3_K);
  slot<FormatQ4_K>(kernels, DType::kQ4_K);
  slot<FormatQ5_K>(kernels, DType::kQ5_K);
  slot<FormatQ6_K>(kernels, DType::kQ6_K);
}

}  // namespace llama_rt::cpu::LLAMA_RT_TIER
