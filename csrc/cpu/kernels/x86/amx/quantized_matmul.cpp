// GEMM over quantized panels.
#include "cpu/kernel_table.h"
#include "cpu/kernels/x86/amx/dequantize_tile.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {
namespace {

// From here on dequantizing a tile costs less than the 8-bit dot products of its weights.
constexpr int64_t kMinTokens = 16;

template <class Format>
constexpr void add(Kernels& kernels, DType dtype) {
  kernels.packed[static_cast<size_t>(dtype)].gemm = {QuantizedTileSource<Format>::multiply,
                                                     Activation::kTiles,
                                                     kMinTokens,
                                                     0,
                                                     kGemmScratch,
                                                     kGemmPanels};
}

}  // namespace

constinit const Kernels kTiledQuantizedMatmul = [] {
  Kernels kernels;
  add<FormatQ4_0>(kernels, DType::kQ4_0);
  add<FormatQ4_1>(kernels, DType::kQ4_1);
  add<FormatQ5_0>(kernels, DType::kQ5_0);
  add<FormatQ5_1>(kernels, DType::kQ5_1);
  add<FormatQ8_0>(kernels, DType::kQ8_0);
  add<FormatQ2_K>(kernels, DType::kQ2_K);
  add<FormatQ3_K>(kernels, DType::kQ3_K);
  add<FormatQ4_K>(kernels, DType::kQ4_K);
  add<FormatQ5_K>(kernels, DType::kQ5_K);
  add<FormatQ6_K>(kernels, DType::kQ6_K);
  add<FormatIQ4_NL>(kernels, DType::kIQ4_NL);
  add<FormatIQ4_XS>(kernels, DType::kIQ4_XS);
  return kernels;
}();

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
