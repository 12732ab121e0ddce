#include "core/codec.h"

#include <cmath>
#include <cstring>
#include <string>

#include "core/error.h"

namespace llama_rt {
namespace {

#include "core/decode.inl"
#include "core/encode.inl"
#include "core/encode_k.inl"

template <class Block, int64_t kElements>
void encode_row(const float* values, int64_t count, std::byte* out) {
  auto* blocks = reinterpret_cast<Block*>(out);
  for (int64_t b = 0; b * kElements < count; ++b) encode_block(values + b * kElements, blocks[b]);
}

template <class Block, int64_t kElements, bool kEncodable>
void encode_if(DType dtype, const float* values, int64_t count, std::byte* out) {
  if constexpr (kEncodable) {
    encode_row<Block, kElements>(values, count, out);
  } else {
    throw DTypeError("nothing can be written as " + std::string(info(dtype).name) + " yet");
  }
}

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

void encode_floats(DType dtype, const float* values, int64_t count, std::byte* out) {
  switch (dtype) {
#define LLAMA_RT_CASE(id, name, block, elements, gguf, activation, encodable) \
  case DType::k##id:                                                          \
    return encode_if<block, elements, encodable>(dtype, values, count, out);
    LLAMA_RT_DTYPES(LLAMA_RT_CASE)
#undef LLAMA_RT_CASE
  }
}

std::vector<float> to_floats(const Tensor& tensor) {
  const View& view = tensor.view;
  std::vector<float> values(static_cast<size_t>(view.shape.elements()));
  decode_floats(view.dtype, view.data, view.shape.elements(), values.data());
  return values;
}

}  // namespace llama_rt
