#include "core/codec.h"

#include <cstring>

namespace llama_rt {
namespace {

#include "core/decode.inl"
#include "core/encode.inl"

}  // namespace

void decode_floats(DType dtype, const std::byte* data, int64_t count, float* out) {
  switch (dtype) {
#define LLAMA_RT_CASE(id, name, block, elements, ...) \
  case DType::k##id:                                  \
    return decode_row<block, elements>(data, count, out);
    LLAMA_RT_DTYPES(LLAMA_RT_CASE)
#undef LLAMA_RT_CASE
  }
}

void encode_halves(const float* values, int64_t count, uint16_t* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = float_to_half(values[i]);
}

std::vector<float> to_floats(const Tensor& tensor) {
  const View& view = tensor.view;
  std::vector<float> values(static_cast<size_t>(view.shape.elements()));
  decode_floats(view.dtype, view.data, view.shape.elements(), values.data());
  return values;
}

}  // namespace llama_rt
