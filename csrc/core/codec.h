// Stored elements to float32 and halves, for small tensors; products have their own decoding in
// each backend.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace llama_rt {

// `count` elements; they must fill whole blocks.
void decode_floats(DType dtype, const std::byte* data, int64_t count, float* out);
// Rounded to IEEE halves.
void encode_halves(const float* values, int64_t count, uint16_t* out);

// A whole tensor as float32.
std::vector<float> to_floats(const Tensor& tensor);

}  // namespace llama_rt
