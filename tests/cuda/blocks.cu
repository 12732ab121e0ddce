// Elements of stored rows as the device decodes them; loaded by test_blocks.py.
#include "cuda/device/blocks.cuh"

using namespace llama_rt;
using namespace llama_rt::cuda;

extern "C" void decode_row(int dtype, const std::byte* row, int64_t count, float* out) {
#define LLAMA_RT_ROW(id, ...)                                                       \
  if (dtype == static_cast<int>(DType::k##id)) {                                    \
    for (int64_t k = 0; k < count; ++k) out[k] = row_element<DType::k##id>(row, k); \
  }
  LLAMA_RT_DTYPES(LLAMA_RT_ROW)
#undef LLAMA_RT_ROW
}
