// Rows of stored elements to float32 and back, for small tensors and for conversion; products
// have their own decoding in each backend.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace llama_rt {

// `count` elements; they must fill whole blocks.
void decode_floats(DType dtype, const std::byte* data, int64_t count, float* out);
// Throws DTypeError when the format has no encoder.
void encode_floats(DType dtype, const float* values, int64_t count, std::byte* out);

// A whole tensor as float32.
std::vector<float> to_floats(const Tensor& tensor);

}  // namespace llama_rt
